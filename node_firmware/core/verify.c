/* Decides whether an image may run here: signature, admission, and a run of its self-test. */
#include "verify.h"

#include <mbedtls/sha256.h>
#include <mbedtls/sha512.h>
#include <monocypher.h>
#include <string.h>

#define OPERATORS_BYTES 64 /* the largest bitmap of docs/nodelink.cddl */

/* ---- Ed25519: RFC 8032, section 5.1.7, with the cofactor ----
 *
 * Implementations differ on S that is not reduced, which Monocypher refuses; on keys of small order, of which one of
 * zeros would take anybody's signature, and which are refused here; and on R with a part of small order, which OpenSSL
 * refuses and the cofactor allows: only the owner of the private key can make it. */

/* Monocypher's equation is 8 (R + hA - sB) = 0: here R = 0, h = 1, s = 0, and what is left is 8 A = 0. */
static bool is_of_small_order(const uint8_t key[IMAGE_KEY_BYTES])
{
    static const uint8_t nothing[64] = {1}, one[32] = {1};
    return crypto_eddsa_check_equation(nothing, key, one) == 0;
}

bool verify_signature(const uint8_t signature[64], const uint8_t key[IMAGE_KEY_BYTES], const uint8_t *message,
                      size_t size)
{
    uint8_t hash[64], h[32];
    mbedtls_sha512_context sha512;
    mbedtls_sha512_init(&sha512);
    if (mbedtls_sha512_starts_ret(&sha512, 0) != 0 || mbedtls_sha512_update_ret(&sha512, signature, 32) != 0 ||
        mbedtls_sha512_update_ret(&sha512, key, IMAGE_KEY_BYTES) != 0 ||
        mbedtls_sha512_update_ret(&sha512, message, size) != 0 || mbedtls_sha512_finish_ret(&sha512, hash) != 0) {
        return false;
    }
    crypto_eddsa_reduce(h, hash);
    return !is_of_small_order(key) && crypto_eddsa_check_equation(signature, key, h) == 0;
}

/* ---- admission ---- */

/* How images name a key: the SHA-256 of its SubjectPublicKeyInfo (RFC 8410). */
static bool is_named(const uint8_t key[IMAGE_KEY_BYTES], const uint8_t key_hash[32])
{
    static const uint8_t prefix[] = {0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00};
    uint8_t info[sizeof prefix + IMAGE_KEY_BYTES], hash[32];
    memcpy(info, prefix, sizeof prefix);
    memcpy(info + sizeof prefix, key, IMAGE_KEY_BYTES);
    return mbedtls_sha256_ret(info, sizeof info, hash, 0) == 0 && memcmp(hash, key_hash, sizeof hash) == 0;
}

image_fault_t verify_origin(const image_t *image, const verify_policy_t *policy)
{
    for (unsigned i = 0; i < policy->key_count && image->key_hash != NULL; i++) {
        if (is_named(policy->keys[i], image->key_hash)) {
            return verify_signature(image->signature, policy->keys[i], image->sha256, 32) ? FAULT_NONE
                                                                                          : FAULT_SIGNATURE;
        }
    }
    return FAULT_KEY;
}

/* Every bit of one bitmap is in the other. */
static bool is_subset(span_t one, span_t other)
{
    for (uint32_t i = 0; i < one.size; i++) {
        if (one.data[i] & ~(i < other.size ? other.data[i] : 0U)) {
            return false;
        }
    }
    return true;
}

/* What the image asks for: a plan that this build reads knows better. */
static size_t wanted_bytes(const image_t *image)
{
    const size_t planned = nn_planned_bytes(image->payload.data, image->payload.size);
    return planned != 0 ? planned : image->arena_bytes;
}

image_fault_t verify_image(const image_t *image, const verify_policy_t *policy)
{
    uint8_t operators[OPERATORS_BYTES];
    const span_t own = {operators, (uint32_t)nn_operators(operators, sizeof operators)};
    const image_fault_t fault = verify_origin(image, policy);
    if (fault != FAULT_NONE) {
        return fault;
    }
    if (policy->cascade != NULL && strcmp(policy->cascade, image->cascade) != 0) {
        return FAULT_CASCADE;
    }
    if (image->size > policy->capacity) {
        return FAULT_CAPACITY;
    }
    if (image->counter < policy->counter) {
        return FAULT_COUNTER;
    }
    if (wanted_bytes(image) > policy->arena_bytes) {
        return FAULT_ARENA;
    }
    if (!is_subset(image->operators, own)) {
        return FAULT_OPERATORS;
    }
    return sense_check(image, policy->ring_bytes);
}

/* ---- the model ---- */

/* The inputs one after the other, into a model that has just been opened, and outputs that are equal to the bit. */
static bool passes_self_test(nn_t *nn, const image_t *image)
{
    nn_tensor_t in, out;
    if (nn_input(nn, 0, &in) != NN_OK || nn_output(nn, 0, &out) != NN_OK) {
        return false;
    }
    const size_t steps = image->inputs.size / in.size;
    if (steps == 0 || image->inputs.size != steps * in.size || image->outputs.size / out.size != steps ||
        image->outputs.size % out.size != 0) {
        return false;
    }
    for (size_t i = 0; i < steps; i++) {
        memcpy(in.data, image->inputs.data + i * in.size, in.size);
        if (nn_invoke(nn) != NN_OK || memcmp(out.data, image->outputs.data + i * out.size, out.size) != 0) {
            return false;
        }
    }
    return true;
}

image_fault_t verify_model(const image_t *image, const verify_policy_t *policy)
{
    uint8_t operators[OPERATORS_BYTES];
    const span_t used = {operators, sizeof operators};
    /* in as much as the image asks for, whatever there is: it may get no more later */
    const uint32_t bytes = image->arena_bytes < policy->arena_bytes ? image->arena_bytes : policy->arena_bytes;
    nn_t nn;
    if (wanted_bytes(image) > policy->arena_bytes) {
        return FAULT_ARENA;
    }
    if (nn_model_operators(image->payload.data, image->payload.size, operators, sizeof operators) != NN_OK) {
        return FAULT_MODEL;
    }
    if (!is_subset(used, image->operators) || !is_subset(image->operators, used)) {
        return FAULT_OPERATORS;
    }
    const image_fault_t fault = sense_open_model(&nn, image, policy->arena, bytes);
    if (fault != FAULT_NONE) {
        return fault;
    }
    return passes_self_test(&nn, image) ? FAULT_NONE : FAULT_SELF_TEST;
}
