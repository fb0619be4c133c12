#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cri-server/proto/cri.pb-c.h"
#include "cri-server/runtime/signals.h"

static void knows_names_and_numbers(void **state)
{
	(void)state;
	assert_int_equal(signal_from_name("SIGTERM"), SIGTERM);
	assert_int_equal(signal_from_name("term"), SIGTERM);
	assert_int_equal(signal_from_name("15"), SIGTERM);
	assert_int_equal(signal_from_name("SIGRTMIN+3"), 37);
	assert_int_equal(signal_from_name("SIGRTMAXMINUS14"), 50);
	assert_int_equal(signal_from_name("SIGRTMAX"), 64);
}

static void refuses_others(void **state)
{
	(void)state;
	static const char *const bad[] = {"", "SIG", "SIGNONSENSE", "65", "-9", "9 ", "SIGRTMIN+31",
		"SIGRTMIN+", "SIGRTMAX-40"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(signal_from_name(bad[i]), 0);
}

static void knows_every_signal_of_cri(void **state)
{
	(void)state;
	const ProtobufCEnumDescriptor *signals = &runtime__v1__signal__descriptor;
	for (unsigned i = 0; i < signals->n_values; i++) {
		if (signals->values[i].value == RUNTIME__V1__SIGNAL__RUNTIME_DEFAULT)
			continue;
		if (!signal_from_name(signals->values[i].name))
			fail_msg("%s is not known", signals->values[i].name);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(knows_names_and_numbers),
		cmocka_unit_test(refuses_others),
		cmocka_unit_test(knows_every_signal_of_cri),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
