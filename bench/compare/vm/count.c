/*
 * Counts the instructions a QEMU guest executes, kernel and user apart: a TCG plugin
 * (https://www.qemu.org/docs/master/devel/tcg-plugins.html).
 *
 *     -plugin count.so,into=PATH     PATH holds 2 counters of 64 bits per vCPU, kernel and user; they run on
 *
 * QEMU's own header is not packaged everywhere, so what is used of it is declared here, as of version 2 of the
 * interface (QEMU 9.0; later ones still take it). Whole translation blocks are counted, so the instructions that
 * follow a page fault within its block count twice; what a string instruction repeats counts each time.
 */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { VCPUS_MAX = 64 };

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
                                           void (*cb)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, void (*cb)(unsigned vcpu, void *data),
                                          enum qemu_plugin_cb_flags flags, void *data);

__attribute__((visibility("default"))) int qemu_plugin_version = 2;

static volatile uint64_t (*counters)[2];

/* Each vCPU has a thread of its own, and writes only its own counters. */
static void count_kernel(unsigned vcpu, void *data)
{
    if (vcpu < VCPUS_MAX)
        counters[vcpu][0] += (uintptr_t)data;
}

static void count_user(unsigned vcpu, void *data)
{
    if (vcpu < VCPUS_MAX)
        counters[vcpu][1] += (uintptr_t)data;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    (void)id;
    /* Linux has the upper half of the address space. */
    int is_kernel = qemu_plugin_tb_vaddr(tb) >> 63;
    qemu_plugin_register_vcpu_tb_exec_cb(tb, is_kernel ? count_kernel : count_user, QEMU_PLUGIN_CB_NO_REGS,
                                         (void *)(uintptr_t)qemu_plugin_tb_n_insns(tb));
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc,
                                                               char **argv)
{
    (void)info;
    if (argc != 1 || strncmp(argv[0], "into=", 5) != 0)
        return -1;
    int file = open(argv[0] + 5, O_RDWR | O_CREAT, 0600);
    if (file < 0 || ftruncate(file, VCPUS_MAX * sizeof *counters) != 0)
        return -1;
    void *mapped = mmap(NULL, VCPUS_MAX * sizeof *counters, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped == MAP_FAILED)
        return -1;
    counters = mapped;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
