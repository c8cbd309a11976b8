/* models: a node's models: which image runs for a cascade, and how a new one gets there. It ties slots (flash), image
 * and verify (trust) and sense (computing) together; images count from 1. */
#ifndef NODE_MODELS_H
#define NODE_MODELS_H

#include "node/node.h"

/* Opens the slots and rejects what cannot be read, or is not signed by a key of this node. `base`: of the first image's
 * flash. */
NODE_MUST_USE int models_open(node_t *n, uint32_t base);
uint32_t models_bytes(const node_config_t *config, const node_flash_t *flash); /* of flash, for all of them */

/* The steps of docs/nodelink.md, "Slots". What runs afterwards is running when they return. NODE_E_STATE where the slot
 * has no such step, NODE_E_IMAGE where its image cannot do it. */
NODE_MUST_USE int models_judge(node_t *n, unsigned image, image_fault_t *fault); /* an upload is whole */
NODE_MUST_USE int models_test(node_t *n, unsigned image, unsigned slot);
NODE_MUST_USE int models_confirm(node_t *n, unsigned image, unsigned slot);
NODE_MUST_USE int models_revert(node_t *n, unsigned image, image_fault_t fault);

/* The cascade's model gave up while it ran. */
void models_failed(node_t *n, unsigned cascade);
/* Somebody looks after the trials: their time begins anew. */
void models_watched(node_t *n);
/* Ends trials whose time is over. Milliseconds until the next one would be; UINT64_MAX where none is on. */
uint64_t models_step(node_t *n);
/* What can be read of the image in a slot without trusting that there is one. */
bool models_read(const node_model_t *m, unsigned slot, image_t *image);

#endif
