echo yes >/root/done
