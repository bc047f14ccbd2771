sleep 0.3
echo $(($2 * 2))
