/* See resign.h. Ed25519 (RFC 8032, section 5.1.6) with the private key of the vector: 32 bytes 0x01. */
#include "resign.h"

#include <mbedtls/sha256.h>
#include <mbedtls/sha512.h>
#include <monocypher.h>
#include <stdlib.h>
#include <string.h>

#include "vector.h"

#define SIGNATURE_BYTES 64
#define DIGEST_BYTES    32
#define TLVS_BYTES      144 /* the unprotected ones: digest, key hash, signature */
#define DIGEST_AT       136 /* of the digest itself, before the end */

/* SHA-512 of `prefix`, and of two more where there are any, as a scalar. */
static void hash_to_scalar(uint8_t scalar[32], const uint8_t prefix[32], const uint8_t *key, const uint8_t *message)
{
    uint8_t all[96], hash[64];
    memcpy(all, prefix, 32);
    size_t size = 32;
    if (key != NULL) {
        memcpy(all + size, key, 32);
        size += 32;
    }
    memcpy(all + size, message, DIGEST_BYTES);
    if (mbedtls_sha512_ret(all, size + DIGEST_BYTES, hash, 0) != 0) {
        abort();
    }
    crypto_eddsa_reduce(scalar, hash);
}

static void sign(uint8_t signature[SIGNATURE_BYTES], const uint8_t message[DIGEST_BYTES])
{
    uint8_t seed[32], expanded[64], secret[32], nonce[32], challenge[32];
    memset(seed, 1, sizeof seed);
    if (mbedtls_sha512_ret(seed, sizeof seed, expanded, 0) != 0) {
        abort();
    }
    crypto_eddsa_trim_scalar(secret, expanded);
    hash_to_scalar(nonce, expanded + 32, NULL, message);
    crypto_eddsa_scalarbase(signature, nonce);
    hash_to_scalar(challenge, signature, vector_key, message);
    crypto_eddsa_mul_add(signature + 32, challenge, secret, nonce);
}

void resign(uint8_t *image, uint32_t size)
{
    uint8_t *const digest = image + size - DIGEST_AT;
    if (mbedtls_sha256_ret(image, size - TLVS_BYTES, digest, 0) != 0) {
        abort();
    }
    sign(image + size - SIGNATURE_BYTES, digest);
}

uint8_t *make_image(uint16_t revision, uint32_t counter, uint32_t *size)
{
    static const uint8_t counter_tlv[] = {0x50, 0, 4, 0};
    uint8_t *const image = vector_load(size), *at = image + *size;
    memcpy(image + 22, &revision, sizeof revision);
    do {
        at--;
    } while (memcmp(at, counter_tlv, sizeof counter_tlv) != 0);
    memcpy(at + sizeof counter_tlv, &counter, sizeof counter);
    resign(image, *size);
    return image;
}
