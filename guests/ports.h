/*
 * The ports of the map "carrel" (src/vmm/hypercalls/maps.ts; a test compares). `out` sends 32 bits to the host and
 * brings nothing back; `in` brings the answer, and takes its arguments in registers as a C function does: RDI,
 * RSI, RDX. Either way a call is one exit.
 */
#ifndef CARREL_PORTS_H
#define CARREL_PORTS_H

#define PORT_BYTE 0xE9          /* out: one byte of output */
#define PORT_GIVE_UP 0xE5       /* in: uint64_t words[4]: vector, error code, RIP, CR2; does not come back */
#define PORT_TRANSLATE 0xE6     /* in: address, struct translation * */
#define PORT_NUMBER 0xE7        /* out: a number, printed in decimal */
#define PORT_PRINT 0xE8         /* out: address of a string */
#define PORT_EXITS 0xEA         /* in: exits so far */
#define PORT_OPEN 0xEB          /* in: path */
#define PORT_READ 0xEC          /* in: buffer, length */
#define PORT_WRITE 0xED         /* in: buffer, length */
#define PORT_EXITS_BY_TYPE 0xEE /* in: buffer, size */
#define PORT_CLOSE 0xEF         /* in */
#define PORT_FILE_OPEN 0xF0     /* in: path, flags */
#define PORT_FILE_READ 0xF1     /* in: file, buffer, length */
#define PORT_FILE_WRITE 0xF2    /* in: file, buffer, length */
#define PORT_FILE_SEEK 0xF3     /* in: file, offset, whence */
#define PORT_FILE_CLOSE 0xF4    /* in: file */

#endif
