/* Mock: of Zephyr 3.7, what ports/zephyr uses of the kernel. */
#ifndef MOCK_ZEPHYR_KERNEL_H
#define MOCK_ZEPHYR_KERNEL_H

#include <zephyr/device.h>

/* Kconfig. */
#define CONFIG_BOARD              "mock"
#define CONFIG_SOC                "mock"
#define CONFIG_FLASH_BASE_ADDRESS 0x0

/* sys/util.h and toolchain.h */
#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#define BIT(n)            (1UL << (n))
#define MIN(a, b)         (((a) < (b)) ? (a) : (b))
#define MAX(a, b)         (((a) > (b)) ? (a) : (b))
#define __aligned(x)      __attribute__((__aligned__(x)))
#define __noinit          __attribute__((section(".noinit")))

typedef struct {
    int64_t ticks;
} k_timeout_t;

#define K_NO_WAIT    ((k_timeout_t){0})
#define K_FOREVER    ((k_timeout_t){-1})
#define K_MSEC(ms)   ((k_timeout_t){(ms)})
#define K_SECONDS(s) K_MSEC((s)*1000)

uint32_t k_uptime_get_32(void);
int64_t k_uptime_ticks(void);
uint64_t k_ticks_to_us_floor64(uint64_t t);
int32_t k_sleep(k_timeout_t timeout);

struct k_thread {
    int mock;
};
typedef struct k_thread *k_tid_t;
typedef void (*k_thread_entry_t)(void *p1, void *p2, void *p3);

#define K_PRIO_PREEMPT(x) (x)
#define K_THREAD_DEFINE(name, stack_size, entry, p1, p2, p3, prio, options, delay)                                     \
    const k_thread_entry_t name##_entry = (entry);                                                                     \
    void *const name##_arguments[] = {(p1), (p2), (p3)};                                                               \
    const int32_t name##_numbers[] = {(stack_size), (prio), (options), (delay)}
k_tid_t k_current_get(void);
int k_thread_stack_space_get(const struct k_thread *thread, size_t *unused_ptr);

struct k_sem {
    int mock;
};
#define K_SEM_DEFINE(name, initial_count, count_limit) struct k_sem name = {(initial_count) <= (count_limit)}
int k_sem_take(struct k_sem *sem, k_timeout_t timeout);
void k_sem_give(struct k_sem *sem);

struct k_msgq {
    size_t mock;
};
#define K_MSGQ_DEFINE(q_name, q_msg_size, q_max_msgs, q_align) struct k_msgq q_name = {(q_msg_size) * (q_max_msgs)}
int k_msgq_put(struct k_msgq *msgq, const void *data, k_timeout_t timeout);
int k_msgq_get(struct k_msgq *msgq, void *data, k_timeout_t timeout);

struct k_mem_slab {
    size_t mock;
};
#define K_MEM_SLAB_DEFINE_STATIC(name, slab_block_size, slab_num_blocks, slab_align)                                   \
    static struct k_mem_slab name = {(slab_block_size) * (slab_num_blocks)}
void k_mem_slab_free(struct k_mem_slab *slab, void *mem);

__attribute__((format(printf, 3, 4))) int snprintk(char *str, size_t size, const char *fmt, ...);

#endif
