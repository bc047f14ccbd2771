#!/bin/sh
# /var/log is in memory from now on: what is written there is gone when the power is.
cat >> /etc/inittab <<'EOF'
::sysinit:/bin/mount -t tmpfs none /var/log
::sysinit:/bin/sh -c 'echo boot >> /var/log/boots; echo service is up > /dev/ttyS0'
::respawn:/bin/busybox httpd -f -p 8080 -h /srv
EOF
