/* Mock: of Zephyr 3.7, what ports/zephyr uses of sockets. */
#ifndef MOCK_ZEPHYR_NET_SOCKET_H
#define MOCK_ZEPHYR_NET_SOCKET_H

#include <stddef.h>
#include <sys/types.h>

#define AF_INET            1
#define SOCK_STREAM        1
#define IPPROTO_TCP        6
#define IPPROTO_TLS_1_2    258
#define TCP_NODELAY        1
#define SOL_TLS            282
#define TLS_SEC_TAG_LIST   1
#define TLS_HOSTNAME       2
#define ZSOCK_MSG_DONTWAIT 0x40

typedef size_t socklen_t;
struct sockaddr;

struct zsock_addrinfo {
    struct zsock_addrinfo *ai_next;
    int ai_flags, ai_family, ai_socktype, ai_protocol, ai_eflags;
    socklen_t ai_addrlen;
    struct sockaddr *ai_addr;
    char *ai_canonname;
};

int zsock_socket(int family, int type, int proto);
int zsock_close(int sock);
int zsock_connect(int sock, const struct sockaddr *addr, socklen_t addrlen);
ssize_t zsock_send(int sock, const void *buf, size_t len, int flags);
ssize_t zsock_recv(int sock, void *buf, size_t max_len, int flags);
int zsock_setsockopt(int sock, int level, int optname, const void *optval, socklen_t optlen);
int zsock_getaddrinfo(const char *host, const char *service, const struct zsock_addrinfo *hints,
                      struct zsock_addrinfo **res);
void zsock_freeaddrinfo(struct zsock_addrinfo *ai);

#endif
