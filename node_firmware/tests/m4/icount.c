/* A TCG plugin for QEMU: counts exactly the instructions that a guest executes.
 *
 * -plugin libicount.so,begin=ADDRESS,end=ADDRESS,out=FILE: every time the guest passes `begin` counting starts at zero,
 * and when it then passes `end` a paragraph is appended to FILE: a line "address count", in hexadecimal, for each
 * instruction that was executed, and an empty one. The instructions at `begin` and `end` themselves do not count.
 *
 * -plugin libicount.so,total=FILE,begin=ADDRESS,end=ADDRESS...: FILE always has what was executed since the start, and
 * for each pair how often the guest came from `begin` to `end` and what it executed on the way, as 64-bit words of the
 * host. The addresses are of functions, or of what follows a call: where a block of code begins. Interrupts count too.
 */
#define _POSIX_C_SOURCE 200809L /* fileno() */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Of QEMU's qemu-plugin.h, which Debian 12 does not have, what is used; it is the same in all versions. */
typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_info;
typedef void (*tb_callback_t)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb);
typedef void (*callback_t)(unsigned cpu, void *context);
enum { QEMU_PLUGIN_CB_NO_REGS };
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, tb_callback_t callback);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn, callback_t callback, int flags,
                                            void *context);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, callback_t callback, int flags, void *context);

#ifndef ICOUNT_API
#define ICOUNT_API 1 /* of QEMU 4.2 to 8; later ones take 2 */
#endif
#define CODE_BYTES (UINT64_C(4) << 20) /* code is from address 0 on */

__attribute__((visibility("default"))) int qemu_plugin_version = ICOUNT_API;
__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info *info,
                                                               int argc, char **argv);

static uint64_t counts[CODE_BYTES / 2];
static bool counting;
static FILE *out;

enum { MAX_SPANS = 16 };
static uint64_t begin[MAX_SPANS], end[MAX_SPANS], since[MAX_SPANS];
static unsigned spans, ends;
static struct totals {
    uint64_t executed;
    struct {
        uint64_t passes, executed;
    } span[MAX_SPANS];
} * totals; /* the file */

static void count(unsigned cpu, void *context)
{
    (void)cpu;
    *(uint64_t *)context += counting;
}

static void on_begin(unsigned cpu, void *context)
{
    (void)cpu, (void)context;
    memset(counts, 0, sizeof counts);
    counting = true;
}

static void on_end(unsigned cpu, void *context)
{
    (void)cpu, (void)context;
    if (!counting) {
        return;
    }
    counting = false;
    for (size_t i = 0; i < CODE_BYTES / 2; i++) {
        if (counts[i] != 0) {
            fprintf(out, "%zx %" PRIx64 "\n", 2 * i, counts[i]);
        }
    }
    fputc('\n', out);
    fflush(out);
}

static void count_instructions(struct qemu_plugin_tb *tb)
{
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        const uint64_t address = qemu_plugin_insn_vaddr(insn);
        const callback_t callback = address == begin[0] ? on_begin : address == end[0] ? on_end : count;
        if (address >= CODE_BYTES) {
            fprintf(stderr, "icount: there is code at %" PRIx64 "\n", address);
            exit(1);
        }
        qemu_plugin_register_vcpu_insn_exec_cb(insn, callback, QEMU_PLUGIN_CB_NO_REGS, &counts[address / 2]);
    }
}

/* ---- totals, by blocks */

static void on_block(unsigned cpu, void *instructions)
{
    (void)cpu;
    totals->executed += (uintptr_t)instructions;
}

static void on_span_begin(unsigned cpu, void *number)
{
    (void)cpu;
    since[(uintptr_t)number] = totals->executed;
}

static void on_span_end(unsigned cpu, void *number)
{
    const uintptr_t i = (uintptr_t)number;
    (void)cpu;
    if (since[i] != 0) {
        totals->span[i].executed += totals->executed - since[i];
        totals->span[i].passes++;
        since[i] = 0;
    }
}

static void count_block(struct qemu_plugin_tb *tb)
{
    const uint64_t address = qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, 0));
    for (uintptr_t i = 0; i < spans; i++) {
        if (address == begin[i]) {
            qemu_plugin_register_vcpu_tb_exec_cb(tb, on_span_begin, QEMU_PLUGIN_CB_NO_REGS, (void *)i);
        }
        if (address == end[i]) {
            qemu_plugin_register_vcpu_tb_exec_cb(tb, on_span_end, QEMU_PLUGIN_CB_NO_REGS, (void *)i);
        }
    }
    qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, QEMU_PLUGIN_CB_NO_REGS, (void *)qemu_plugin_tb_n_insns(tb));
}

/* ---- both */

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    (void)id;
    if (out != NULL) {
        count_instructions(tb);
    }
    if (totals != NULL) {
        count_block(tb);
    }
}

static bool open_totals(const char *name)
{
    const struct totals zero = {0};
    FILE *file = fopen(name, "wb+");
    if (file == NULL || fwrite(&zero, sizeof zero, 1, file) != 1 || fflush(file) != 0) {
        return false;
    }
    void *mapped = mmap(NULL, sizeof zero, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file), 0);
    totals = mapped != MAP_FAILED ? mapped : NULL;
    return totals != NULL;
}

int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "begin=", 6) == 0 && spans < MAX_SPANS) {
            begin[spans++] = strtoull(argv[i] + 6, NULL, 0);
        } else if (strncmp(argv[i], "end=", 4) == 0 && ends < MAX_SPANS) {
            end[ends++] = strtoull(argv[i] + 4, NULL, 0);
        } else if (strncmp(argv[i], "out=", 4) == 0) {
            out = fopen(argv[i] + 4, "w");
        } else if (strncmp(argv[i], "total=", 6) != 0 || !open_totals(argv[i] + 6)) {
            fprintf(stderr, "icount: %s?\n", argv[i]);
            return -1;
        }
    }
    if (out == NULL && totals == NULL) {
        fputs("icount: no file to write to\n", stderr);
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
