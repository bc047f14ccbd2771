/* Four rtnetlink requests: enough to give a fresh network namespace its links. rtnetlink(7). */
#define _GNU_SOURCE
#include "isolate.h"
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { OUTER_INDEX = 64 };

struct request {
  struct nlmsghdr head;
  union { struct ifinfomsg link; struct ifaddrmsg address; struct rtmsg route; } body;
  char room[512];
};

static struct rtattr *add(struct request *r, unsigned short type, const void *data, size_t n) {
  struct rtattr *a = (struct rtattr *)((char *)r + NLMSG_ALIGN(r->head.nlmsg_len));
  a->rta_type = type;
  a->rta_len = (unsigned short)RTA_LENGTH(n);
  if (n) memcpy(RTA_DATA(a), data, n);
  r->head.nlmsg_len = (uint32_t)(NLMSG_ALIGN(r->head.nlmsg_len) + RTA_ALIGN(a->rta_len));
  return a;
}

static void nest_end(struct request *r, struct rtattr *nest) {
  nest->rta_len = (unsigned short)((char *)r + r->head.nlmsg_len - (char *)nest);
}

static int ask(int fd, struct request *r) {
  r->head.nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
  if (send(fd, r, r->head.nlmsg_len, 0) < 0) return -1;
  struct { struct nlmsghdr head; struct nlmsgerr error; char rest[1024]; } answer;
  ssize_t n = recv(fd, &answer, sizeof answer, 0);
  if (n < (ssize_t)(sizeof answer.head + sizeof(int)) || answer.head.nlmsg_type != NLMSG_ERROR) { errno = EPROTO; return -1; }
  if (answer.error.error) { errno = -answer.error.error; return -1; }
  return 0;
}

int net_open(void) { return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE); }

/* if_nametoindex would open a socket in the caller's namespace; the netlink socket's may be another one. */
int net_up(int fd, const char *name) {
  struct request r = { .head = { .nlmsg_len = NLMSG_LENGTH(sizeof r.body.link), .nlmsg_type = RTM_NEWLINK } };
  r.body.link.ifi_flags = r.body.link.ifi_change = IFF_UP;
  add(&r, IFLA_IFNAME, name, strlen(name) + 1);
  return ask(fd, &r);
}

int net_mac(int fd, const char *name, const char *mac) {
  unsigned char bytes[6];
  if (sscanf(mac, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx", &bytes[0], &bytes[1], &bytes[2], &bytes[3], &bytes[4], &bytes[5]) != 6) {
    errno = EINVAL;
    return -1;
  }
  struct request r = { .head = { .nlmsg_len = NLMSG_LENGTH(sizeof r.body.link), .nlmsg_type = RTM_NEWLINK } };
  add(&r, IFLA_IFNAME, name, strlen(name) + 1);
  add(&r, IFLA_ADDRESS, bytes, sizeof bytes);
  return ask(fd, &r);
}

static int index_of(int fd, const char *name) {
  struct request r = { .head = { .nlmsg_len = NLMSG_LENGTH(sizeof r.body.link), .nlmsg_type = RTM_GETLINK, .nlmsg_flags = NLM_F_REQUEST } };
  add(&r, IFLA_IFNAME, name, strlen(name) + 1);
  if (send(fd, &r, r.head.nlmsg_len, 0) < 0) return -1;
  char data[16384];
  ssize_t n = recv(fd, data, sizeof data, 0);
  struct nlmsghdr *h = (struct nlmsghdr *)data;
  if (n < (ssize_t)NLMSG_LENGTH(sizeof(struct ifinfomsg)) || h->nlmsg_type != RTM_NEWLINK) { errno = ENODEV; return -1; }
  return ((struct ifinfomsg *)NLMSG_DATA(h))->ifi_index;
}

int net_address(int fd, const char *name, const char *address, int prefix) {
  struct in_addr a;
  if (inet_pton(AF_INET, address, &a) != 1 || prefix < 0 || prefix > 32) { errno = EINVAL; return -1; }
  int index = index_of(fd, name);
  if (index < 0) return -1;
  struct request r = { .head = { .nlmsg_len = NLMSG_LENGTH(sizeof r.body.address), .nlmsg_type = RTM_NEWADDR, .nlmsg_flags = NLM_F_CREATE | NLM_F_EXCL } };
  r.body.address = (struct ifaddrmsg){ .ifa_family = AF_INET, .ifa_prefixlen = (uint8_t)prefix, .ifa_index = (uint32_t)index };
  struct in_addr broadcast = { .s_addr = prefix >= 31 ? a.s_addr : a.s_addr | htonl(0xffffffffu >> prefix) };
  add(&r, IFA_LOCAL, &a, sizeof a);
  add(&r, IFA_ADDRESS, &a, sizeof a);
  if (prefix < 31) add(&r, IFA_BROADCAST, &broadcast, sizeof broadcast);
  return ask(fd, &r) && errno != EEXIST ? -1 : 0; /* whoever plugged the cable may have set it already */
}

int net_gateway(int fd, const char *gateway) {
  struct in_addr a;
  if (inet_pton(AF_INET, gateway, &a) != 1) { errno = EINVAL; return -1; }
  struct request r = { .head = { .nlmsg_len = NLMSG_LENGTH(sizeof r.body.route), .nlmsg_type = RTM_NEWROUTE, .nlmsg_flags = NLM_F_CREATE | NLM_F_EXCL } };
  r.body.route = (struct rtmsg){ .rtm_family = AF_INET, .rtm_table = RT_TABLE_MAIN, .rtm_protocol = RTPROT_BOOT,
    .rtm_scope = RT_SCOPE_UNIVERSE, .rtm_type = RTN_UNICAST };
  add(&r, RTA_GATEWAY, &a, sizeof a);
  return ask(fd, &r) && errno != EEXIST ? -1 : 0;
}

/* A veth pair: one end in the socket's namespace, the peer in the namespace given by a descriptor. */
int net_veth(int fd, const char *name, const char *peer, int peer_namespace) {
  struct request r = { .head = { .nlmsg_len = NLMSG_LENGTH(sizeof r.body.link), .nlmsg_type = RTM_NEWLINK, .nlmsg_flags = NLM_F_CREATE | NLM_F_EXCL } };
  /* A number of its own: where both ends are number 2, each in its namespace, the kernel takes them for a link
   * without a peer, and the carrier comes up a second late (linkwatch_urgent_event). */
  r.body.link.ifi_index = OUTER_INDEX;
  add(&r, IFLA_IFNAME, name, strlen(name) + 1);
  struct rtattr *info = add(&r, IFLA_LINKINFO, NULL, 0);
  add(&r, IFLA_INFO_KIND, "veth", 4);
  struct rtattr *data = add(&r, IFLA_INFO_DATA, NULL, 0);
  struct ifinfomsg none = { 0 };
  struct rtattr *other = add(&r, VETH_INFO_PEER, &none, sizeof none);
  add(&r, IFLA_IFNAME, peer, strlen(peer) + 1);
  add(&r, IFLA_NET_NS_FD, &peer_namespace, sizeof peer_namespace);
  nest_end(&r, other);
  nest_end(&r, data);
  nest_end(&r, info);
  return ask(fd, &r);
}
