/*
 * The image of a disk that the bare guest (tests/unit/vmm/bare_guest.h) boots from
 *
 *     bare_disk IMAGE
 */
#include <stdio.h>
#include <unistd.h>

extern const unsigned char bare_guest[], bare_guest_end[];

#define DISK_BYTES (16 << 20)

int main(int argc, char **argv)
{
    size_t length = (size_t)(bare_guest_end - bare_guest);
    FILE *image = argc == 2 ? fopen(argv[1], "w") : NULL;

    if (!image || fwrite(bare_guest, 1, length, image) != length || fflush(image) != 0 ||
        ftruncate(fileno(image), DISK_BYTES) < 0 || fclose(image) != 0) {
        fprintf(stderr, "usage: bare_disk IMAGE\n");
        return 1;
    }
    return 0;
}
