/* See sector.h. */
#include "sector.h"

#include <stdio.h>
#include <string.h>

static void fill(options_t *o, sector_t *s)
{
    const provision_t *const p = &s->provision;
    snprintf(s->broker, sizeof s->broker, "%s:%u", p->host, p->port);
    o->broker = s->broker;
    o->config.id = p->id;
    o->config.user = p->user[0] != '\0' ? p->user : NULL;
    o->config.password = p->password[0] != '\0' ? p->password : NULL;
    o->config.key_count = p->key_count;
    memcpy(o->keys, p->keys, sizeof p->keys);
}

bool sector_take(sector_t *s, flash_memory_t *flash, options_t *options, tls_t **tls)
{
    const provision_t *const p = &s->provision;
    s->memory = (flash_memory_t){.bytes = flash->bytes, .size = PROVISION_BYTES};
    s->flash = flash_driver(&s->memory, PROVISION_BYTES);
    flash->bytes += PROVISION_BYTES;
    flash->size -= PROVISION_BYTES;
    if (provision_load(&s->provision, &s->flash) != NODE_OK) {
        return false;
    }
    if (p->security == PROVISION_X509 || p->image_size != 0) {
        die("%s: certificates, and an image of the factory's, are for boards", p->id);
    }
    fill(options, s);
    *tls = p->security == PROVISION_PSK ? tls_with_psk(p->psk.data, p->psk.size, p->id) : NULL;
    if (p->ssid[0] != '\0') {
        fprintf(stderr, "%s: Wi-Fi %s\n", p->id, p->ssid);
    }
    return true;
}
