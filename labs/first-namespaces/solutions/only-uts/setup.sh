#!/bin/sh
# Its own host name, and nothing else of its own.
unshare --uts sh -c 'hostname isolated; exec sleep 7200' < /dev/null > /dev/null 2>&1 &
