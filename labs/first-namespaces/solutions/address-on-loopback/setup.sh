#!/bin/sh
# The address answers, but it is the machine's own: it was put on the wrong side.
unshare --uts --net sh -c '
  hostname isolated
  ip link set lo up
  exec unshare --pid --fork sleep 7200
' < /dev/null > /dev/null 2>&1 &
ip addr add 10.11.12.14/32 dev lo
