/* A TCG plugin for QEMU: counts exactly the instructions that a guest executes between two addresses.
 * -plugin libicount.so,begin=ADDRESS,end=ADDRESS,out=FILE: every time the guest passes `begin` counting starts at zero,
 * and when it then passes `end` a paragraph is appended to FILE: a line "address count", in hexadecimal, for each
 * instruction that was executed, and an empty one. The instructions at `begin` and `end` themselves do not count. */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of QEMU's qemu-plugin.h, which Debian 12 does not have, what is used; it is the same in all versions. */
typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_info;
typedef void (*tb_callback_t)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb);
typedef void (*insn_callback_t)(unsigned cpu, void *context);
enum { QEMU_PLUGIN_CB_NO_REGS };
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, tb_callback_t callback);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn, insn_callback_t callback, int flags,
                                            void *context);

#ifndef ICOUNT_API
#define ICOUNT_API 1 /* of QEMU 4.2 to 8; later ones take 2 */
#endif
#define CODE_BYTES (UINT64_C(4) << 20) /* code is from address 0 on */

__attribute__((visibility("default"))) int qemu_plugin_version = ICOUNT_API;
__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info *info,
                                                               int argc, char **argv);

static uint64_t counts[CODE_BYTES / 2];
static bool counting;
static uint64_t begin, end;
static FILE *out;

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

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    (void)id;
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        const uint64_t address = qemu_plugin_insn_vaddr(insn);
        const insn_callback_t callback = address == begin ? on_begin : address == end ? on_end : count;
        if (address >= CODE_BYTES) {
            fprintf(stderr, "icount: there is code at %" PRIx64 "\n", address);
            exit(1);
        }
        qemu_plugin_register_vcpu_insn_exec_cb(insn, callback, QEMU_PLUGIN_CB_NO_REGS, &counts[address / 2]);
    }
}

int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "begin=", 6) == 0) {
            begin = strtoull(argv[i] + 6, NULL, 0);
        } else if (strncmp(argv[i], "end=", 4) == 0) {
            end = strtoull(argv[i] + 4, NULL, 0);
        } else if (strncmp(argv[i], "out=", 4) == 0) {
            out = fopen(argv[i] + 4, "w");
        }
    }
    if (out == NULL) {
        fputs("icount: no file to write to\n", stderr);
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
