/* mbedTLS, cut down to what the core uses. */
#ifndef NODE_MBEDTLS_CONFIG_H
#define NODE_MBEDTLS_CONFIG_H

#define MBEDTLS_SHA256_C
#define MBEDTLS_SHA256_SMALLER /* 0.8 KB of unrolled rounds is worth more than the time of one check per image */
#define MBEDTLS_SHA512_C       /* for Ed25519 */
#define MBEDTLS_SHA512_SMALLER
#define MBEDTLS_SHA512_NO_SHA384

#endif
