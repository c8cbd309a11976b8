/* Mock: of Zephyr 3.7, what ports/zephyr uses of TLS credentials. */
#ifndef MOCK_ZEPHYR_NET_TLS_CREDENTIALS_H
#define MOCK_ZEPHYR_NET_TLS_CREDENTIALS_H

#include <stddef.h>

enum tls_credential_type {
    TLS_CREDENTIAL_NONE,
    TLS_CREDENTIAL_CA_CERTIFICATE,
    TLS_CREDENTIAL_PUBLIC_CERTIFICATE,
    TLS_CREDENTIAL_PRIVATE_KEY,
    TLS_CREDENTIAL_PSK,
    TLS_CREDENTIAL_PSK_ID
};
typedef int sec_tag_t;

int tls_credential_add(sec_tag_t tag, enum tls_credential_type type, const void *cred, size_t credlen);

#endif
