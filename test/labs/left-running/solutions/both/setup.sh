sleep 1000 </dev/null >/dev/null 2>&1 &
# the shell's child becomes sleep in its own time
until grep -q sleep /proc/$!/comm; do :; done
echo yes >/root/done
