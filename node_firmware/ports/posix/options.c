/* See options.h. */
#include "options.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "key.h"
#include "posix.h"

static void usage(void)
{
    die("usage: gateway-node [--id ID {--broker HOST:PORT | --radio SOCKET}... | --radio SOCKET] --flash FILE\n"
        "                    [--key FILE]... [--image FILE]... [--pairing {encrypted | PASSKEY | compare}]\n"
        "                    [--input SENSOR:PATH]... [--smp [ADDRESS:]PORT] [--psk FILE]\n"
        "                    [--user NAME --password WORD]\n"
        "                    [--vitals-s S] [--trial-s S] [--keepalive-s S] [--speed X | --fast]\n"
        "                    [--loop | --exit-at-end]\n"
        "SENSOR is audio or vibration; PATH a WAV file, raw int16 samples, a FIFO, or - for stdin.\n"
        "Images are installed where no other runs yet, if one of the keys signed them. SMP's standard port is 1337.\n"
        "--psk is a psk_file of mosquitto's: with it the link is TLS, with the key that the file has for ID.\n"
        "--radio is the socket of a radio chip for Bluetooth LE; --pairing, what a central must have done: pairing of "
        "any\n"
        "kind, with these six digits, or with a number that both show. SIGUSR1 then says yes for the node.\n"
        "Without --id the flash begins with what `gatewayctl node flash-image` makes; where it does not, the node is\n"
        "nobody yet, and waits on its radio for `gatewayctl node provision`.");
}

static uint16_t seconds(const char *text)
{
    const long value = strtol(text, NULL, 10);
    if (value < 1 || value > UINT16_MAX) {
        die("%s is not a number of seconds from 1 to %u", text, UINT16_MAX);
    }
    return (uint16_t)value;
}

static void add_key(options_t *o, const char *path)
{
    if (o->config.key_count == MAX_KEYS) {
        die("%s: too many keys", path);
    }
    read_key(path, o->keys[o->config.key_count++]);
}

static void add(const char **list, unsigned *count, unsigned most, const char *value)
{
    if (*count == most) {
        die("%s: too many", value);
    }
    list[(*count)++] = value;
}

/* The levels and kinds of docs/radio.md, "security". */
static void set_pairing(options_t *o, const char *text)
{
    char *end;
    o->radio_level = 2;
    if (strcmp(text, "encrypted") == 0) {
        o->radio_level = 1;
    } else if (strcmp(text, "compare") == 0) {
        o->radio_input_output = 2;
    } else {
        o->radio_input_output = 1;
        o->passkey = (uint32_t)strtoul(text, &end, 10);
        if (strlen(text) != 6 || *end != '\0') {
            die("%s is not six digits", text);
        }
    }
}

static void parse_option(options_t *o, int option)
{
    switch (option) {
    case 'i':
        o->config.id = optarg;
        break;
    case 'b':
        o->broker = optarg;
        break;
    case 'r':
        o->radio = optarg;
        break;
    case 'a':
        set_pairing(o, optarg);
        break;
    case 'f':
        o->flash = optarg;
        break;
    case 'K':
        add_key(o, optarg);
        break;
    case 'S':
        o->smp = optarg;
        break;
    case 't':
        o->config.trial_s = seconds(optarg);
        break;
    case 'm':
        add(o->images, &o->image_count, NODE_MAX_CASCADES, optarg);
        break;
    case 's':
        add(o->inputs, &o->input_count, MAX_INPUTS, optarg);
        break;
    case 'P':
        o->psk = optarg;
        break;
    case 'u':
        o->config.user = optarg;
        break;
    case 'p':
        o->config.password = optarg;
        break;
    case 'v':
        o->config.vitals_s = seconds(optarg);
        break;
    case 'k':
        o->config.keepalive_s = seconds(optarg);
        break;
    case 'x':
        o->speed = strtod(optarg, NULL);
        if (!(o->speed > 0)) {
            die("%s is not a speed", optarg);
        }
        break;
    case 'X':
        o->speed = 0;
        break;
    case 'e':
        o->exit_at_end = true;
        break;
    case 'l':
        o->loop = true;
        break;
    default:
        usage();
    }
}

void parse_options(options_t *o, int argc, char **argv)
{
    static const struct option long_options[] = {
        {"id", required_argument, NULL, 'i'},       {"broker", required_argument, NULL, 'b'},
        {"flash", required_argument, NULL, 'f'},    {"key", required_argument, NULL, 'K'},
        {"image", required_argument, NULL, 'm'},    {"smp", required_argument, NULL, 'S'},
        {"trial-s", required_argument, NULL, 't'},  {"input", required_argument, NULL, 's'},
        {"psk", required_argument, NULL, 'P'},      {"user", required_argument, NULL, 'u'},
        {"password", required_argument, NULL, 'p'}, {"vitals-s", required_argument, NULL, 'v'},
        {"speed", required_argument, NULL, 'x'},    {"keepalive-s", required_argument, NULL, 'k'},
        {"fast", no_argument, NULL, 'X'},           {"exit-at-end", no_argument, NULL, 'e'},
        {"radio", required_argument, NULL, 'r'},    {"pairing", required_argument, NULL, 'a'},
        {"loop", no_argument, NULL, 'l'},           {NULL, 0, NULL, 0}};
    o->speed = 1;
    o->config = (node_config_t){.hardware = "posix",
                                .board = "posix",
                                .firmware = NODE_VERSION,
                                .reset_reason = "power-on",
                                .images = NODE_MAX_CASCADES,
                                .image_bytes = IMAGE_BYTES,
                                .arena_bytes = IMAGE_BYTES,
                                .keys = (const uint8_t(*)[IMAGE_KEY_BYTES])o->keys,
                                .trial_s = 3600,
                                .keepalive_s = 30,
                                .vitals_s = 60};
    for (int option; (option = getopt_long(argc, argv, "", long_options, NULL)) != -1;) {
        parse_option(o, option);
    }
    const bool sector = o->config.id == NULL;
    const bool told = o->broker != NULL || o->psk != NULL || o->config.user != NULL || o->config.key_count != 0;
    if (optind != argc || o->flash == NULL || (sector ? told : o->broker == NULL && o->radio == NULL)) {
        usage();
    }
}
