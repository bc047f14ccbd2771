#!/bin/sh
# Right, until the restart: nothing is written down. The record is of the set-up.
echo set-up >> /var/log/boots
echo 'service is up' > /dev/ttyS0
httpd -p 8080 -h /srv
