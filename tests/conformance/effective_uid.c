/* The program of critest's image "nonewprivs": set-user-ID root, it says whose rights it has. */
#include <stdio.h>
#include <unistd.h>

int main(void)
{
	printf("Effective uid: %u\n", (unsigned)geteuid());
	return 0;
}
