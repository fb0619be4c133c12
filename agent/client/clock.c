#include "agent/client/clock.h"

#include <stdlib.h>
#include <time.h>

#define CALL_MS    5000
#define BETWEEN_MS 1000
#define SAMPLES    3
#define AHEAD_NS   INT64_C(20000000)
#define BEHIND_NS  INT64_C(100000000) /* an answer may be so long on its way */

struct sample {
	int64_t off_ns;     /* how far the guest's clock is ahead */
	int64_t unknown_ns; /* by how much that may be wrong */
};

int64_t clock_now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static int adjust(struct agent *agent, int64_t by_ns, int64_t *ret_guest_ns)
{
	Bulkhead__Agent__AdjustClockRequest request = BULKHEAD__AGENT__ADJUST_CLOCK_REQUEST__INIT;
	ProtobufCMessage *response = NULL;
	request.by_ns = by_ns;
	int r = agent_call(agent, "AdjustClock", &request.base, CALL_MS, &response, NULL);
	if (r < 0)
		return r;
	*ret_guest_ns = ((Bulkhead__Agent__AdjustClockResponse *)response)->realtime_ns;
	protobuf_c_message_free_unpacked(response, NULL);
	return 0;
}

/* The best of some, which is the one that was answered fastest. */
static int measure(struct agent *agent, struct sample *ret)
{
	struct sample best = {.unknown_ns = INT64_MAX};
	for (int i = 0; i < SAMPLES; i++) {
		int64_t before = clock_now_ns(), guest = 0;
		int r = adjust(agent, 0, &guest);
		if (r < 0)
			return r;
		int64_t half = (clock_now_ns() - before) / 2;
		/* Below 0 the host's own clock was set meanwhile. */
		if (half >= 0 && half < best.unknown_ns && guest >= 0)
			best = (struct sample){guest - before - half, half};
	}
	*ret = best;
	return 0;
}

void clock_watch(struct agent *agent, struct clock_watch *watch, int64_t guest_ns)
{
	int64_t now_ns = clock_now_ns();
	uint64_t now_ms = ev_now_ms();
	struct sample sample;
	if (guest_ns < now_ns + AHEAD_NS && guest_ns > now_ns - BEHIND_NS)
		return;
	if (watch->tried_ms && now_ms - watch->tried_ms < BETWEEN_MS)
		return;
	watch->tried_ms = now_ms;
	if (measure(agent, &sample) < 0 || sample.unknown_ns == INT64_MAX)
		return;
	int64_t sure_ns = AHEAD_NS + sample.unknown_ns;
	if (llabs(sample.off_ns) > sure_ns)
		adjust(agent, -sample.off_ns, &guest_ns);
}
