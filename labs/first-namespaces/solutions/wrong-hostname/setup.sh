#!/bin/sh
# Everything is there, but the host name has a capital letter.
set -e
unshare --uts --net sh -c '
  hostname Isolated
  ip link set lo up
  echo $$ > /tmp/isolated.pid
  exec unshare --pid --fork sleep 7200
' < /dev/null > /dev/null 2>&1 &
while ! [ -s /tmp/isolated.pid ]; do sleep 0.05; done
pid=$(cat /tmp/isolated.pid)
ip link add outer type veth peer name inner netns "$pid"
ip addr add 10.11.12.13/24 dev outer
ip link set outer up
nsenter --target "$pid" --net ip addr add 10.11.12.14/24 dev inner
nsenter --target "$pid" --net ip link set inner up
