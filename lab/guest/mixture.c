/*
 * Content for a disk image, written on the host:  mixture FILE <PIECES
 *
 * A line of PIECES is "OFFSET BYTES KIND", in whole pages.  "text" is a web
 * server's log as in content.h; "dense" pages are random but for their last
 * quarter, which is such text, so that zstd takes a fifth off them.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "content.h"

enum { DENSE_BYTES = PAGE_SIZE / 4 * 3 };

static bool write_page(int fd, uint64_t page, const char *kind)
{
    uint64_t words[PAGE_WORDS], random[PAGE_WORDS];

    content_fill(words, page, &(PageState){.kind = KIND_TEXT});
    if (!strcmp(kind, "dense")) {
        content_fill(random, page, &(PageState){.kind = KIND_RANDOM});
        memcpy(words, random, DENSE_BYTES);
    }
    return pwrite(fd, words, PAGE_SIZE, (off_t)(page * PAGE_SIZE)) == PAGE_SIZE;
}

int main(int argc, char **argv)
{
    int fd = argc == 2 ? open(argv[1], O_WRONLY | O_CLOEXEC) : -1;
    uint64_t offset, bytes;
    char kind[16];

    if (fd < 0) {
        perror(argc == 2 ? argv[1] : "usage: mixture FILE <PIECES");
        return 2;
    }
    while (scanf("%lu %lu %15s", &offset, &bytes, kind) == 3) {
        for (uint64_t page = offset / PAGE_SIZE; page < (offset + bytes) / PAGE_SIZE; page++) {
            if (write_page(fd, page, kind))
                continue;
            perror(argv[1]);
            return 1;
        }
    }
    return close(fd) ? 1 : 0;
}
