#!/bin/sh
# Everything runs, and nobody can come to it.
cat >> /etc/inittab <<'EOF'
::sysinit:/bin/sh -c 'ip link set eth0 down; echo boot >> /var/log/boots; echo service is up > /dev/ttyS0'
::respawn:/bin/busybox httpd -f -p 8080 -h /srv
EOF
