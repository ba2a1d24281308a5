// Makes filters with libseccomp, as runc does, for the tests to compare ours
// with. The library alone is enough: what is used of seccomp.h is declared here.
//
//	number ARCH NAME                     the number of a call, -1 if there is none of the name
//	name ARCH NUMBER                     the name of a call, - if it has none
//	filter DEFAULT ARCH...               begins a filter, for these architectures
//	rule ACTION NAME [INDEX OP A B]...   adds to it
//	end                                  the errno of the first rule refused, or 0,
//	                                     and the program in hexadecimal
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct scmp_arg_cmp { unsigned int arg; int op; uint64_t a, b; };

void *seccomp_init(uint32_t);
void seccomp_release(void *);
int seccomp_arch_add(void *, uint32_t);
int seccomp_arch_remove(void *, uint32_t);
uint32_t seccomp_arch_native(void);
int seccomp_syscall_resolve_name(const char *);
int seccomp_syscall_resolve_name_arch(uint32_t, const char *);
char *seccomp_syscall_resolve_num_arch(uint32_t, int);
int seccomp_rule_add_array(void *, uint32_t, int, unsigned int, const struct scmp_arg_cmp *);
int seccomp_export_bpf(void *, int);

int main(void)
{
	char line[4096];
	void *filter = NULL;
	int refused = 0;
	FILE *program = tmpfile();

	while (fgets(line, sizeof line, stdin)) {
		char *save, *word = strtok_r(line, " \n", &save);
		char *first = strtok_r(NULL, " \n", &save);
		if (!strcmp(word, "number")) {
			printf("%d\n", seccomp_syscall_resolve_name_arch(strtoul(first, NULL, 0), strtok_r(NULL, " \n", &save)));
			fflush(stdout);
		} else if (!strcmp(word, "name")) {
			char *name = seccomp_syscall_resolve_num_arch(strtoul(first, NULL, 0), atoi(strtok_r(NULL, " \n", &save)));
			printf("%s\n", name ? name : "-");
			free(name);
			fflush(stdout);
		} else if (!strcmp(word, "filter")) {
			int native = 0;
			refused = 0;
			filter = seccomp_init(strtoul(first, NULL, 0));
			while ((word = strtok_r(NULL, " \n", &save))) {
				uint32_t arch = strtoul(word, NULL, 0);
				seccomp_arch_add(filter, arch);
				native |= arch == seccomp_arch_native();
			}
			if (!native)
				seccomp_arch_remove(filter, seccomp_arch_native());
		} else if (!strcmp(word, "rule")) {
			struct scmp_arg_cmp args[6];
			unsigned int n = 0;
			int nr = seccomp_syscall_resolve_name(strtok_r(NULL, " \n", &save));
			while ((word = strtok_r(NULL, " \n", &save))) {
				args[n].arg = strtoul(word, NULL, 0);
				args[n].op = strtoul(strtok_r(NULL, " \n", &save), NULL, 0);
				args[n].a = strtoull(strtok_r(NULL, " \n", &save), NULL, 0);
				args[n].b = strtoull(strtok_r(NULL, " \n", &save), NULL, 0);
				n++;
			}
			int rc = seccomp_rule_add_array(filter, strtoul(first, NULL, 0), nr, n, args);
			if (rc && !refused)
				refused = -rc;
		} else {
			int c;
			rewind(program);
			if (ftruncate(fileno(program), 0) || seccomp_export_bpf(filter, fileno(program)))
				abort();
			seccomp_release(filter);
			rewind(program);
			printf("%d ", refused);
			while ((c = getc(program)) != EOF)
				printf("%02x", c);
			printf("\n");
			fflush(stdout);
		}
	}
	return 0;
}
