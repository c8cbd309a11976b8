/* A public key from a file: what may sign images for a node. */
#ifndef KEY_H
#define KEY_H

#include "node/node.h"

/* Ed25519, as PEM (SubjectPublicKeyInfo, as `gatewayctl keys make` writes it) or as 64 hex digits. Ends the program
 * where it is neither. */
void read_key(const char *path, uint8_t key[IMAGE_KEY_BYTES]);

#endif
