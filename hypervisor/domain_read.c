/*
 * The XML of our machines, read: what libvirt says of one that runs.
 */
#include <errno.h>
#include <libxml/parser.h>
#include <libxml/xpath.h>
#include <stdlib.h>
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
		ret->uid = (uid_t)number(context,
			"number(substring-before(substring-after("
			"/domain/seclabel[@model='dac']/label, '+'), ':'))",
			UINT32_MAX - 1);
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

/* The child element, which libvirt writes once or not at all. */
static xmlNode *child(xmlNode *parent, const char *name)
{
	xmlNode *node = xmlFirstElementChild(parent);

	while (node && !xmlStrEqual(node->name, BAD_CAST name))
		node = xmlNextElementSibling(node);
	return node;
}

static bool has(xmlNode *node, const char *attribute, const char *value)
{
	xmlChar *text = node ? xmlGetNoNsProp(node, BAD_CAST attribute) : NULL;
	bool same = text && strcmp((const char *)text, value) == 0;

	xmlFree(text);
	return same;
}

static xmlNode *find_nic(xmlDoc *document, const char *mac)
{
	xmlNode *root = document ? xmlDocGetRootElement(document) : NULL;
	xmlNode *devices = root ? child(root, "devices") : NULL;
	xmlNode *node = devices ? child(devices, "interface") : NULL;

	while (node && !has(child(node, "mac"), "address", mac))
		node = xmlNextElementSibling(node);
	return node;
}

static int take_node(xmlNode *node, char **ret, struct err *err)
{
	xmlBuffer *buffer = xmlBufferCreate();
	char *text = NULL;

	if (buffer && xmlNodeDump(buffer, node->doc, node, 0, 0) > 0)
		text = strdup((const char *)xmlBufferContent(buffer));
	xmlBufferFree(buffer);
	if (!text)
		return err_nomem(err);
	*ret = text;
	return 0;
}

int domain_xml_link(const char *xml, const char *mac, bool up, char **ret, struct err *err)
{
	xmlDoc *document = parse(xml);
	xmlNode *nic = find_nic(document, mac), *link = nic ? child(nic, "link") : NULL;
	int r;

	if (!nic)
		r = err_set(err, -ENODEV, "the machine has no NIC %s", mac);
	else if (has(link, "state", "down") != up)
		r = 1;
	else if ((!link && !(link = xmlNewChild(nic, NULL, BAD_CAST "link", NULL))) ||
		 !xmlSetProp(link, BAD_CAST "state", BAD_CAST(up ? "up" : "down")))
		r = err_nomem(err);
	else
		r = take_node(nic, ret, err);
	xmlFreeDoc(document);
	return r;
}
