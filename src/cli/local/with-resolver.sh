#!/bin/sh
# with-resolver.sh FILE PROGRAM [ARGUMENTS...]: runs the program with FILE as /etc/resolv.conf.
#
# The host's own name server often cannot be reached from the fabric (127.0.0.53 is another loopback there), the
# uplink's can. To be started in a mount namespace of its own, so that the host keeps its file. Where it cannot be
# mounted the program runs all the same: only names from outside are then unknown to it.
file=$1
shift
mount --bind "$file" /etc/resolv.conf || echo "with-resolver: /etc/resolv.conf stays as it is" >&2
exec "$@"
