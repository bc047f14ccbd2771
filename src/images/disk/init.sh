#!/bin/busybox sh
# The first program of a virtual machine, in its RAM disk: loads what the disk needs, mounts it, gives a new
# machine what is its own, and hands over. Each command is one of busybox's, run in this process where it can be.
#
#   /modules/virtio, /modules/ide   modules in the order of loading, one path per line
#   /seed                           from the host, behind this archive; without it (a disk booted by hand)
#                                   nothing is changed:
#     id          the machine's id
#     once/       files that are copied over the root when its id is not this one yet
#     password    the hash for root in /etc/shadow, at that time too
#     always/     files that are copied at every boot
#     random      stirred into the random numbers at every boot

mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys

load() {
  while read -r module; do insmod "$module"; done <"/modules/$1"
}

find_root() {
  for root in /dev/vda1 /dev/sda1; do [ -b $root ] && return 0; done
  return 1
}

load virtio
# Only a disk of a PC (qemu -hda) takes longer: its controller looks for drives in the background.
if ! find_root; then
  load ide
  tries=0
  until find_root || [ $tries -ge 1000 ]; do
    sleep 0.02
    tries=$((tries + 1))
  done
fi
if ! mount -t ext4 -o noatime $root /root; then
  echo "carrel: there is no root file system on the first partition of /dev/vda or /dev/sda" >/dev/console
  sleep 1
  poweroff -f
fi

if [ -d /seed ]; then
  id= known=
  read -r id </seed/id
  [ -f /root/etc/carrel/identity ] && read -r known </root/etc/carrel/identity
  if [ "$id" != "$known" ]; then
    cp -a /seed/once/. /root/
    if [ -f /seed/password ]; then
      read -r hash </seed/password
      sed -i "s|^root:[^:]*:|root:$hash:|" /root/etc/shadow
    fi
    # The mark means that all of it is there, also after a power cut.
    sync
    mkdir -p /root/etc/carrel
    echo "$id" >/root/etc/carrel/identity
  fi
  [ -d /seed/always ] && cp -a /seed/always/. /root/
  [ -f /seed/random ] && cat /seed/random >/dev/urandom
fi

init=/sbin/carrel-init
read -r line </proc/cmdline
for word in $line; do
  case $word in init=*) init=${word#init=} ;; esac
done
mount -o move /dev /root/dev
mount -o move /proc /root/proc
mount -o move /sys /root/sys
exec switch_root /root "$init"
