/* mbedTLS, cut down to what the node uses: hashes for the core, and what NODE_TLS asks for (CMake defines NODE_TLS_PSK,
 * NODE_TLS_X509 and, for a microcontroller, NODE_TLS_HEAP). No files, clock, entropy sources, server or texts. */
#ifndef NODE_MBEDTLS_CONFIG_H
#define NODE_MBEDTLS_CONFIG_H

#define MBEDTLS_SHA256_C
#define MBEDTLS_SHA256_SMALLER /* 0.8 KB of unrolled rounds is worth more than the time of one check per image */
#define MBEDTLS_SHA512_C       /* for Ed25519 */
#define MBEDTLS_SHA512_SMALLER
#define MBEDTLS_SHA512_NO_SHA384

/* Memory comes from the port: mbedtls_memory_buffer_alloc_init(). What DEBUG adds is how much of it is in use, for a
 * board's health; its texts go nowhere. */
#ifdef NODE_TLS_HEAP
#define MBEDTLS_PLATFORM_C
#define MBEDTLS_PLATFORM_MEMORY
#define MBEDTLS_MEMORY_BUFFER_ALLOC_C
#define MBEDTLS_MEMORY_DEBUG
#define MBEDTLS_PLATFORM_FPRINTF_MACRO(...) 0
#define MBEDTLS_PLATFORM_NO_STD_FUNCTIONS
#define MBEDTLS_PLATFORM_EXIT_MACRO(status) __builtin_trap() /* its heap is damaged */
#endif

#ifdef NODE_TLS_PSK /* TLS 1.2, AES-128-GCM */
#define MBEDTLS_SSL_TLS_C
#define MBEDTLS_SSL_CLI_C
#define MBEDTLS_SSL_PROTO_TLS1_2
#define MBEDTLS_SSL_EXTENDED_MASTER_SECRET
#define MBEDTLS_SSL_MAX_FRAGMENT_LENGTH      /* asks the broker for records that fit: */
#define MBEDTLS_SSL_IN_CONTENT_LEN      2048 /* also for the longest handshake message, which is its certificates */
#define MBEDTLS_SSL_OUT_CONTENT_LEN     2048
#define MBEDTLS_KEY_EXCHANGE_PSK_ENABLED
#define MBEDTLS_PSK_MAX_LEN 32
#define MBEDTLS_MD_C
#define MBEDTLS_CIPHER_C
#define MBEDTLS_GCM_C
#define MBEDTLS_AES_C
#define MBEDTLS_AES_ROM_TABLES   /* RAM is dearer than flash, */
#define MBEDTLS_AES_FEWER_TABLES /* and one table of 1 KB is enough */
#define MBEDTLS_AES_SETKEY_DEC_ALT
#define MBEDTLS_AES_DECRYPT_ALT /* GCM only encrypts: tls.c has the place-holders */
#ifndef NODE_TLS_X509
#define MBEDTLS_SSL_CIPHERSUITES MBEDTLS_TLS_PSK_WITH_AES_128_GCM_SHA256
#else
#define MBEDTLS_SSL_CIPHERSUITES                                                                                       \
    MBEDTLS_TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, MBEDTLS_TLS_PSK_WITH_AES_128_GCM_SHA256
#endif
#endif

#ifdef NODE_TLS_X509 /* ECDHE-ECDSA with P-256 */
#define MBEDTLS_KEY_EXCHANGE_ECDHE_ECDSA_ENABLED
#define MBEDTLS_SSL_SERVER_NAME_INDICATION
#define MBEDTLS_BIGNUM_C
#define MBEDTLS_ECP_C
#define MBEDTLS_ECP_DP_SECP256R1_ENABLED
#define MBEDTLS_ECP_NIST_OPTIM
#define MBEDTLS_ECP_NO_INTERNAL_RNG   /* it is given ours */
#define MBEDTLS_ECP_WINDOW_SIZE       4
#define MBEDTLS_ECP_FIXED_POINT_OPTIM 0
#define MBEDTLS_ECDH_C
#define MBEDTLS_ECDSA_C
#define MBEDTLS_ECDSA_DETERMINISTIC /* a weak random number must not give the private key away */
#define MBEDTLS_HMAC_DRBG_C
#define MBEDTLS_ASN1_PARSE_C
#define MBEDTLS_ASN1_WRITE_C
#define MBEDTLS_OID_C
#define MBEDTLS_PK_C
#define MBEDTLS_PK_PARSE_C
#define MBEDTLS_X509_USE_C
#define MBEDTLS_X509_CRT_PARSE_C
#define MBEDTLS_X509_REMOVE_INFO
#endif

#include <mbedtls/check_config.h>

#endif
