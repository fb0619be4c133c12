#include "cri-server/image/image_fixture.h"

#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>

#include <openssl/evp.h>

struct blob {
	char digest[72];
	size_t size;
	char diff_id[72]; /* of a layer */
};

/* ---- a store ---- */

void open_images(struct place *p)
{
	char path[64];
	snprintf(path, sizeof(path), "%s/state.db", p->dir);
	assert_int_equal(store_open(path, &p->store, &p->err), 0);
	assert_int_equal(img_open(&p->config, p->store, &p->img, &p->err), 0);
}

void close_images(struct place *p)
{
	p->img = img_close(p->img);
	p->store = store_close(p->store);
}

void use_script(struct place *p, const char *text)
{
	char real[80];
	snprintf(p->script, sizeof(p->script), "%s/unpack", p->dir);
	snprintf(real, sizeof(real), "%s.real", p->script);
	assert_int_equal(symlink(p->helper, real), 0);
	assert_int_equal(fd_write_file(p->script, text, strlen(text), 0755, NULL), 0);
	p->config.unpack_helper = p->script;
}

int place_setup(void **state)
{
	struct place *p = calloc(1, sizeof(*p));
	snprintf(p->dir, sizeof(p->dir), "/tmp/image-test-XXXXXX");
	if (!mkdtemp(p->dir))
		return -1;
	ssize_t n = readlink("/proc/self/exe", p->helper, sizeof(p->helper) - 32);
	if (n < 0)
		return -1;
	p->helper[n] = '\0';
	char *base = strrchr(p->helper, '/') + 1;
	snprintf(base, sizeof(p->helper) - (size_t)(base - p->helper), "bulkhead-unpack");
	snprintf(p->source, sizeof(p->source), "oci:%s/layout:latest", p->dir);
	p->config = (struct img_config){
		.dir = str_printf("%s/images", p->dir),
		.unpack_helper = p->helper,
		.layer_bytes_max = 1 << 20,
		.layer_files_max = 1000,
		.pull_timeout_ms = 60000,
	};
	*state = p;
	return 0;
}

int place_teardown(void **state)
{
	struct place *p = *state;
	close_images(p);
	free((char *)p->config.dir);
	int r = fd_remove_tree(p->dir, NULL);
	free(p);
	return r;
}

struct place *begin(void **state)
{
	if (geteuid() != 0 || access("/usr/bin/skopeo", X_OK) < 0) {
		print_message("pulling needs root and skopeo\n");
		skip();
	}
	struct place *p = *state;
	open_images(p);
	return p;
}

/* ---- a layout ---- */

const char *const one[] = {"one", NULL};
const char *const two[] = {"two", NULL};
const char *const hiding[] = {".wh..wh..opq", "three", NULL};

static void digest_of(const void *data, size_t len, char ret[72])
{
	unsigned char digest[32];
	assert_true(EVP_Digest(data, len, digest, NULL, EVP_sha256(), NULL));
	snprintf(ret, 72, "sha256:");
	str_hex(ret + 7, digest, sizeof(digest));
}

static struct blob put_blob(const struct place *p, const void *data, size_t len)
{
	struct blob blob = {.size = len};
	char path[160];
	digest_of(data, len, blob.digest);
	snprintf(path, sizeof(path), "%s/layout/blobs/sha256/%.64s", p->dir, blob.digest + 7);
	assert_int_equal(fd_write_file(path, data, len, 0600, NULL), 0);
	return blob;
}

/* Packs in the one place what is in the other. */
static size_t compress_layer(const char *tar, size_t len, char *out, size_t size)
{
	size_t used;
	struct archive *a = archive_write_new();
	struct archive_entry *e = archive_entry_new();
	archive_write_set_format_raw(a);
	archive_write_add_filter_gzip(a);
	assert_int_equal(archive_write_open_memory(a, out, size, &used), ARCHIVE_OK);
	archive_entry_set_filetype(e, AE_IFREG);
	assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
	assert_int_equal(archive_write_data(a, tar, len), len);
	archive_entry_free(e);
	assert_int_equal(archive_write_close(a), ARCHIVE_OK);
	archive_write_free(a);
	return used;
}

static struct blob put_layer(const struct place *p, const char *const *paths, bool gzip)
{
	static char tar[65536], packed[65536];
	size_t used;
	char diff_id[72];
	struct archive *a = archive_write_new();
	archive_write_set_format_pax(a);
	assert_int_equal(archive_write_open_memory(a, tar, sizeof(tar), &used), ARCHIVE_OK);
	for (; *paths; paths++) {
		struct archive_entry *e = archive_entry_new();
		archive_entry_set_pathname(e, *paths);
		archive_entry_set_mode(e, S_IFREG | 0644);
		archive_entry_set_size(e, 4);
		assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
		assert_int_equal(archive_write_data(a, "data", 4), 4);
		archive_entry_free(e);
	}
	assert_int_equal(archive_write_close(a), ARCHIVE_OK);
	archive_write_free(a);
	digest_of(tar, used, diff_id);
	if (gzip)
		used = compress_layer(tar, used, packed, sizeof(packed));
	struct blob blob = put_blob(p, gzip ? packed : tar, used);
	memcpy(blob.diff_id, diff_id, sizeof(diff_id));
	return blob;
}

static void write_in_layout(const struct place *p, const char *name, const char *text)
{
	char path[64];
	snprintf(path, sizeof(path), "%s/layout/%s", p->dir, name);
	assert_int_equal(fd_write_file(path, text, strlen(text), 0600, NULL), 0);
}

void make_layout(const struct place *p, const struct layout_options *o)
{
	char text[8192], layers[2048] = "", ids[1024] = "";
	snprintf(text, sizeof(text), "%s/layout/blobs/sha256", p->dir);
	assert_int_equal(fd_mkdir_all(text, 0700, NULL), 0);
	for (size_t i = 0; i < LAYERS_MAX && (o->layers[i] || (o->raw_layer && i == 0)); i++) {
		struct blob blob = o->raw_layer ? put_blob(p, o->raw_layer, strlen(o->raw_layer))
						: put_layer(p, o->layers[i], o->gzip);
		snprintf(layers + strlen(layers), sizeof(layers) - strlen(layers),
			"%s{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar%s\","
			"\"digest\":\"%s\",\"size\":%zu}",
			i ? "," : "", o->gzip ? "+gzip" : "", blob.digest, blob.size);
		snprintf(ids + strlen(ids), sizeof(ids) - strlen(ids), "%s\"%s\"", i ? "," : "",
			o->diff_id     ? o->diff_id
			: o->raw_layer ? blob.digest
				       : blob.diff_id);
	}
	snprintf(text, sizeof(text),
		"{\"architecture\":\"%s\",\"os\":\"linux\",\"config\":{\"Env\":[\"%s\"]},"
		"\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[%s]}}",
		o->architecture ? o->architecture : "amd64", o->env ? o->env : "A=1", ids);
	const char *config_text = o->raw_config ? o->raw_config : text;
	struct blob config = put_blob(p, config_text, strlen(config_text));
	snprintf(text, sizeof(text),
		"{\"schemaVersion\":2,\"config\":{\"mediaType\":"
		"\"application/vnd.oci.image.config.v1+json\",\"digest\":\"%s\",\"size\":%zu},"
		"\"layers\":[%s]}",
		config.digest, config.size, layers);
	struct blob manifest = put_blob(p, text, strlen(text));
	snprintf(text, sizeof(text),
		"{\"schemaVersion\":2,\"manifests\":[{\"mediaType\":"
		"\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"%s\",\"size\":%zu,"
		"\"annotations\":{\"org.opencontainers.image.ref.name\":\"latest\"}}]}",
		manifest.digest, manifest.size);
	write_in_layout(p, "index.json", text);
	write_in_layout(p, "oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}");
}

/* ---- what is there ---- */

static size_t count(const struct place *p, const char *name)
{
	char path[64];
	snprintf(path, sizeof(path), "%s/%s", p->config.dir, name);
	DIR *dir = opendir(path);
	size_t n = 0;
	if (!dir)
		return 0;
	while (readdir(dir))
		n++;
	closedir(dir);
	return n - 2;
}

void holds(const struct place *p, size_t blobs, size_t layers)
{
	assert_int_equal(count(p, "blobs/sha256"), blobs);
	assert_int_equal(count(p, "layers"), layers);
	assert_int_equal(count(p, "tmp"), 0);
}

void pull(struct place *p, char ret_id[72])
{
	_cleanup_free_ char *id = NULL;
	if (img_pull(p->img, p->source, NULL, -EBADF, &id, &p->err) < 0)
		fail_msg("%s", p->err.msg);
	snprintf(ret_id, 72, "%s", id);
}

struct img_image *find(struct place *p, const char *name)
{
	struct img_image *image = NULL;
	assert_in_range(img_find(p->img, name, &image, &p->err), 0, 1);
	return image;
}

bool leads_to(struct place *p, const char *name, const char *id)
{
	struct img_image *image = find(p, name);
	bool same = image && strcmp(image->id, id) == 0;
	img_image_unref(image);
	return same;
}

static uint64_t bytes_in(const struct place *p, const char *name)
{
	char path[64];
	snprintf(path, sizeof(path), "%s/%s", p->config.dir, name);
	DIR *dir = opendir(path);
	uint64_t sum = 0;
	struct stat st;
	assert_non_null(dir);
	for (struct dirent *e; (e = readdir(dir));)
		if (fstatat(dirfd(dir), e->d_name, &st, 0) == 0 && S_ISREG(st.st_mode))
			sum += (uint64_t)st.st_blocks * 512;
	closedir(dir);
	return sum;
}

uint64_t file_bytes(const struct place *p)
{
	return bytes_in(p, "blobs/sha256") + bytes_in(p, "layers");
}

static size_t copy_names(char ***ret, const char *const *names)
{
	size_t n = 0;
	while (names && names[n])
		n++;
	*ret = calloc(n + 1, sizeof(char *));
	assert_non_null(*ret);
	for (size_t i = 0; i < n; i++)
		assert_non_null((*ret)[i] = strdup(names[i]));
	return n;
}

void add_named(struct place *p, unsigned number, const char *const *tags,
	const char *const *digests, char ret_id[72])
{
	Bulkhead__Store__Image *record = calloc(1, sizeof(*record));
	assert_non_null(record);
	bulkhead__store__image__init(record);
	record->n_tags = copy_names(&record->tags, tags);
	record->n_digests = copy_names(&record->digests, digests);
	record->config = calloc(1, sizeof(*record->config));
	assert_non_null(record->config);
	bulkhead__store__image_config__init(record->config);
	snprintf(ret_id, 72, "sha256:%064x", number);
	assert_int_equal(img_add(p->img, ret_id, record, &p->err), 0);
}
