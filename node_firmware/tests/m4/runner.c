/* Does what the host's file "jobs" says on a Cortex-M4 and writes what came out to "results" (tests/m4.py makes the one
 * and reads the other). What is to be counted stands between count_begin() and count_end().
 *
 * A job is a job_t, `model_bytes` of a model or a configuration, and `steps` times `input_bytes`; both are padded to
 * NN_ALIGNMENT. Its result is a status, the memory used and the stack that opening took; then for each step any number
 * of records (index, bytes, the bytes themselves), and END with the step's status and stack. */
#include <string.h>

#include "node/frontend.h"
#include "node/nn.h"
#include "semihosting.h"

enum { JOB_TRACE, JOB_INVOKE, JOB_AUDIO, JOB_VIBRATION, JOB_SPIN };

typedef struct job {
    uint32_t kind, arena_bytes, model_bytes, steps, input_bytes;
    uint32_t reserved[3]; /* so that the model is aligned */
} job_t;

#define END           UINT32_MAX
#define ARENA_SIZE    (3U << 20)
#define WORK_SIZE     (16U << 20)
#define FRESH         0xA5 /* arena and stack before use */
#define STACK_WATCHED (64U << 10)
#define STACK_MARGIN  64 /* for watch_stack() itself */

static uint8_t arena[ARENA_SIZE] __attribute__((aligned(NN_ALIGNMENT)));
static uint8_t work[WORK_SIZE] __attribute__((section(".psram"), aligned(NN_ALIGNMENT)));
static int results;
static uint8_t *stack;

void count_begin(void);
void count_end(void);
void spin(uint32_t turns);

__attribute__((noinline)) void count_begin(void)
{
    __asm__ volatile("" ::: "memory");
}

__attribute__((noinline)) void count_end(void)
{
    __asm__ volatile("" ::: "memory");
}

/* From here on until stack_used(), which returns the bytes of stack that were used in between: STACK_MARGIN or more. */
__attribute__((noinline)) static void watch_stack(void)
{
    stack = __builtin_frame_address(0);
    memset(stack - STACK_WATCHED, FRESH, STACK_WATCHED - STACK_MARGIN);
}

static uint32_t stack_used(void)
{
    const uint8_t *lowest = stack - STACK_WATCHED;
    while (*lowest == FRESH && lowest < stack - STACK_MARGIN) {
        lowest++;
    }
    return (uint32_t)(stack - lowest);
}

/* 2 * turns + 1 instructions. */
__attribute__((naked, noinline)) void spin(__attribute__((unused)) uint32_t turns)
{
    __asm__ volatile("1: subs r0, #1\n\tbne 1b\n\tbx lr");
}

static void put(const uint32_t *words, size_t count)
{
    semihosting_write(results, words, count * sizeof *words);
}

static void put_status(int status, uint32_t memory)
{
    put((const uint32_t[]){(uint32_t)status, memory, stack_used()}, 3);
}

static void put_end(int status)
{
    put((const uint32_t[]){END, (uint32_t)status, stack_used()}, 3);
}

static void put_record(uint32_t index, const void *data, uint32_t bytes)
{
    put((const uint32_t[]){index, bytes}, 2);
    semihosting_write(results, data, bytes);
}

static void put_tensor(void *context, unsigned op, unsigned output, const nn_tensor_t *tensor, unsigned tensor_index)
{
    (void)context, (void)op, (void)output;
    put_record(tensor_index, tensor->data, tensor->size);
}

static void set_inputs(const nn_t *nn, const uint8_t *data, size_t bytes)
{
    nn_tensor_t tensor;
    for (unsigned i = 0; nn_input(nn, i, &tensor) == NN_OK; i++) {
        if (tensor.size > bytes) {
            semihosting_exit(3);
        }
        memcpy(tensor.data, data, tensor.size);
        data += tensor.size;
        bytes -= tensor.size;
    }
}

static void run_model(const job_t *job, const uint8_t *model, const uint8_t *input)
{
    nn_t nn;
    memset(arena, FRESH, job->arena_bytes);
    watch_stack();
    count_begin();
    nn_status_t status = nn_open(&nn, model, job->model_bytes, arena, job->arena_bytes);
    count_end();
    put_status(status, nn.arena_used);
    for (uint32_t step = 0; step < job->steps; step++, input += job->input_bytes) {
        if (status == NN_OK) {
            set_inputs(&nn, input, job->input_bytes);
        }
        watch_stack();
        if (job->kind == JOB_TRACE) {
            status = nn_invoke_traced(&nn, put_tensor, NULL);
        } else {
            count_begin();
            status = nn_invoke(&nn);
            count_end();
        }
        put_end(status);
    }
}

static void run_audio(const job_t *job, const uint8_t *parameters, const uint8_t *input)
{
    static audio_frontend_t fe;
    audio_parameters_t read;
    uint16_t row[AUDIO_MAX_CHANNELS];
    watch_stack();
    const int status = audio_parameters_read(&read, job->model_bytes == 0 ? NULL : parameters, job->model_bytes);
    if (status == 0) {
        audio_frontend_init(&fe, &read);
    }
    put_status(status, sizeof fe);
    for (uint32_t step = 0; step < job->steps; step++, input += job->input_bytes) {
        watch_stack();
        const int16_t *samples = (const int16_t *)input;
        for (uint32_t left = status == 0 ? job->input_bytes / 2 : 0; left > 0;) {
            bool ready = false;
            count_begin();
            const size_t taken = audio_frontend_feed(&fe, samples, left, row, &ready);
            count_end();
            samples += taken;
            left -= taken;
            if (ready) {
                put_record(0, row, read.channels * sizeof row[0]);
            }
        }
        put_end(0);
    }
}

static void run_vibration(const job_t *job, const uint8_t *config, const uint8_t *input)
{
    static vibration_frontend_t fe;
    int16_t row[VIBRATION_MAX_BANDS];
    watch_stack();
    const int status = vibration_frontend_init(&fe, (const vibration_config_t *)config);
    put_status(status, sizeof fe);
    for (uint32_t step = 0; step < job->steps; step++, input += job->input_bytes) {
        watch_stack();
        const int16_t *samples = (const int16_t *)input;
        for (uint32_t left = status == 0 ? job->input_bytes / 2 : 0; left > 0;) {
            bool ready = false;
            count_begin();
            const size_t taken = vibration_frontend_feed(&fe, samples, left, row, &ready);
            count_end();
            samples += taken;
            left -= taken;
            if (ready) {
                put_record(0, row, fe.config.bands * sizeof row[0]);
            }
        }
        put_end(0);
    }
}

static void run_spin(const job_t *job)
{
    watch_stack();
    put_status(0, 0);
    for (uint32_t step = 0; step < job->steps; step++) {
        watch_stack();
        count_begin();
        spin(job->arena_bytes);
        count_end();
        put_end(0);
    }
}

static const uint8_t *padded(const uint8_t *data, uint32_t bytes)
{
    return data + ((bytes + NN_ALIGNMENT - 1) & ~(uint32_t)(NN_ALIGNMENT - 1));
}

int main(void)
{
    const uint8_t *at = work;
    const uint8_t *const end = work + semihosting_load("jobs", work, sizeof work);
    results = semihosting_create("results");
    while (at < end) {
        const job_t *const job = (const job_t *)at;
        const uint8_t *const model = at + sizeof *job;
        const uint8_t *const input = padded(model, job->model_bytes);
        at = padded(input, job->steps * job->input_bytes);
        if (job->arena_bytes > ARENA_SIZE && job->kind <= JOB_INVOKE) {
            return 3;
        }
        if (job->kind <= JOB_INVOKE) {
            run_model(job, model, input);
        } else if (job->kind == JOB_AUDIO) {
            run_audio(job, model, input);
        } else if (job->kind == JOB_VIBRATION) {
            run_vibration(job, model, input);
        } else {
            run_spin(job);
        }
    }
    return 0;
}
