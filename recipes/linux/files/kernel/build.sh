#!/bin/sh
# Runs in the image, whose only contents afterwards are what this leaves in /boot. See ../../recipe.yaml.
set -eu
cd /kernel
source=/kernel/source
mkdir -p "$source" /boot
tar -xJf /usr/src/linux-source-6.1.tar.xz -C "$source" --strip-components=1

# Reproducible: neither the hour nor the host is in it.
export KBUILD_BUILD_TIMESTAMP=@0 KBUILD_BUILD_USER=carrel KBUILD_BUILD_HOST=carrel LC_ALL=C
make="make -C $source -s -j$(nproc)"
cp config "$source/kernel/configs/carrel.config"
$make tinyconfig carrel.config >/dev/null

# What depends on something that is not there is left out of .config without a word.
grep -v '^#' config | while read -r wanted; do
  [ -z "$wanted" ] || case $wanted in
    *=n) ! grep -q "^${wanted%=n}=" "$source/.config" ;;
    *) grep -qxF "$wanted" "$source/.config" ;;
  esac || { echo "the kernel's configuration has no $wanted" >&2; exit 1; }
done

$make bzImage
cp "$source/arch/x86/boot/bzImage" /boot/bzImage
strip -o /boot/vmlinux "$source/vmlinux"

# Two initramfs, packed by the kernel's own tool.
gcc -static -nostdlib -o first first.S
"$source/usr/gen_init_cpio" initrd.list >/boot/initrd
"$source/usr/gen_init_cpio" initrd.first.list >/boot/initrd.first
