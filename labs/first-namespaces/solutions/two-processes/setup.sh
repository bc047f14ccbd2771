#!/bin/sh
# One process has the pid namespace, another one the host name.
unshare --pid --fork sleep 7200 < /dev/null > /dev/null 2>&1 &
unshare --uts sh -c 'hostname isolated; exec sleep 7200' < /dev/null > /dev/null 2>&1 &
