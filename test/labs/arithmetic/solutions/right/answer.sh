sleep 0.1
case $1 in
  double) echo $(($2 * 2)) ;;
  square) echo $(($2 * $2)) ;;
  sum) echo $(($2 * ($2 + 1) / 2)) ;;
esac
