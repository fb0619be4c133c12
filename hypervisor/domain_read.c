/*
 * The XML of our machines, read: what libvirt says of one that runs.
 */
#include <libxml/parser.h>
#include <libxml/xpath.h>
#include <string.h>

#include "common/fd.h"
#include "hypervisor/domain_xml.h"

static xmlDoc *parse(const char *xml)
{
	size_t len = strlen(xml);

	if (len > 1 << 20)
		return NULL;
	return xmlReadMemory(xml, (int)len, NULL, NULL,
		XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
}

bool domain_xml_is_ours(const char *metadata, const char *run_dir)
{
	xmlDoc *document = parse(metadata);
	xmlChar *owner = NULL;
	bool ours;

	if (document)
		owner = xmlGetNoNsProp(xmlDocGetRootElement(document), BAD_CAST "run-dir");
	ours = owner && strcmp((const char *)owner, run_dir) == 0;
	xmlFree(owner);
	xmlFreeDoc(document);
	return ours;
}

/* The value of an XPath expression, 0 where it is none or not within [0, max]. */
static uint64_t number(xmlXPathContext *context, const char *expression, uint64_t max)
{
	xmlXPathObject *found = xmlXPathEvalExpression(BAD_CAST expression, context);
	uint64_t value = 0;

	if (found && found->floatval >= 0 && found->floatval <= (double)max)
		value = (uint64_t)found->floatval;
	xmlXPathFreeObject(found);
	return value;
}

void domain_xml_read(const char *xml, struct domain_live *ret)
{
	xmlDoc *document = parse(xml);
	xmlXPathContext *context = document ? xmlXPathNewContext(document) : NULL;
	const uint64_t kib_max = UINT64_C(1) << 40;

	*ret = (struct domain_live){0};
	if (context) {
		uint64_t plugged =
			number(context, "number(//devices/memory/target/requested)", kib_max);
		uint64_t room = number(context, "number(//devices/memory/target/size)", kib_max);
		uint64_t all = number(context, "number(/domain/memory)", kib_max);

		ret->cid = (uint32_t)number(
			context, "number(//devices/vsock/cid/@address)", UINT32_MAX - 1);
		ret->size.vcpus_max =
			(unsigned)number(context, "number(/domain/vcpu)", HV_VCPUS_MAX);
		ret->size.vcpus =
			(unsigned)number(context, "number(/domain/vcpu/@current)", HV_VCPUS_MAX);
		if (!ret->size.vcpus)
			ret->size.vcpus = ret->size.vcpus_max;
		/* <memory> counts all that a device may come to give. */
		if (room <= all && plugged <= room) {
			ret->size.memory_mib = (unsigned)((all - room + plugged) >> 10);
			ret->boot_memory_mib = (unsigned)((all - room) >> 10);
			ret->size.memory_max_mib = (unsigned)(all >> 10);
		}
	}
	if (ret->cid < 3)
		ret->cid = 0;
	xmlXPathFreeContext(context);
	xmlFreeDoc(document);
}

bool domain_xml_never_ran(const char *status)
{
	xmlDoc *document = parse(status);
	xmlChar *pid = NULL;
	bool never;

	if (document)
		pid = xmlGetNoNsProp(xmlDocGetRootElement(document), BAD_CAST "pid");
	never = pid && strcmp((const char *)pid, "0") == 0;
	xmlFree(pid);
	xmlFreeDoc(document);
	return never;
}
