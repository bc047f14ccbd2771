#!/bin/sh
set -e
cat > /usr/local/bin/at-boot <<'EOF'
#!/bin/sh
echo boot >> /var/log/boots
echo 'service is up' > /dev/ttyS0
EOF
chmod 755 /usr/local/bin/at-boot
{
  echo '::sysinit:/usr/local/bin/at-boot'
  echo '::respawn:/bin/busybox httpd -f -p 8080 -h /srv'
} >> /etc/inittab
