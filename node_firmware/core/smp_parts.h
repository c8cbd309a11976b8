/* What the files of the SMP server share: smp.c has frames and the table of commands, smp_*.c have one group each. */
#ifndef SMP_PARTS_H
#define SMP_PARTS_H

#include "cbor.h"
#include "node/node.h"
#include "smp.h"

/* What a handler returns instead of 0: the rc of its group, and the nearest of SMP's own, which is all that version 1
 * knows. */
#define SMP_REFUSAL(rc, own) ((rc) << 8 | (own))

enum {
    SMP_EUNKNOWN = 1,
    SMP_EINVAL = 3,
    SMP_ENOENT = 5,
    SMP_EBADSTATE = 6,
    SMP_EMSGSIZE = 7,
    SMP_ENOTSUP = 8,
    SMP_ETOONEW = 13
};

typedef struct smp_call {
    node_t *node;
    span_t map;           /* of the request, well-formed */
    cbor_writer_t answer; /* takes one map */
    unsigned buffers;     /* as smp_answer()'s */
    bool malformed;       /* a field that was asked for has another type */
} smp_call_t;

/* A field of the request, or `absent`; a span without data where it is absent. What nobody asks for is ignored, as
 * MCUmgr does. */
uint32_t smp_uint(smp_call_t *call, const char *key, uint32_t absent);
bool smp_bool(smp_call_t *call, const char *key);
span_t smp_text(smp_call_t *call, const char *key);
span_t smp_bytes(smp_call_t *call, const char *key);
bool smp_equal(span_t text, const char *word);

int smp_os_echo(smp_call_t *call);
int smp_os_datetime_read(smp_call_t *call);
int smp_os_datetime_write(smp_call_t *call);
int smp_os_reset(smp_call_t *call);
int smp_os_parameters(smp_call_t *call);
int smp_os_info(smp_call_t *call);
int smp_image_read(smp_call_t *call);
int smp_image_write(smp_call_t *call);
int smp_image_upload(smp_call_t *call);
int smp_image_erase(smp_call_t *call);
int smp_stat_show(smp_call_t *call);
int smp_stat_list(smp_call_t *call);
int smp_settings_read(smp_call_t *call);
int smp_settings_write(smp_call_t *call);
int smp_settings_delete(smp_call_t *call);
int smp_settings_load(smp_call_t *call);
int smp_settings_save(smp_call_t *call);

#endif
