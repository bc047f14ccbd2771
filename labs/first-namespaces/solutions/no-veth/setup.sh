#!/bin/sh
# The namespaces are right, but no cable leads into them.
unshare --uts --net sh -c '
  hostname isolated
  ip link set lo up
  exec unshare --pid --fork sleep 7200
' < /dev/null > /dev/null 2>&1 &
