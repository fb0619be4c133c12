$(call library,image,$(addprefix cri-server/image/,image.c load.c remake.c names.c files.c collect.c usage.c pull.c resolve.c skopeo.c download.c convert.c \
	entry.c layer.c manifest.c platform.c \
	reference.c service.c) cri-server/message.c)
$(call library,unpack,$(addprefix cri-server/image/,unpack.c tree.c erofs.c))
UNPACK_PKGS := libarchive libcrypto libcap libseccomp
$(call program,bulkhead-unpack,cri-server/image,cri-server/image/unpack_main.c,unpack common,$(UNPACK_PKGS))
$(call unit_test,cri-server/image/reference_test.c,image common,libprotobuf-c)
$(call library,unpack-fixture,cri-server/image/unpack_fixture.c)
$(call unit_test,cri-server/image/unpack_test.c,unpack-fixture unpack common,libarchive libcrypto)
$(call unit_test,cri-server/image/unpack_hostile_test.c,unpack-fixture unpack common,libarchive libcrypto)
$(call unit_test,cri-server/image/manifest_test.c,image store common,jansson libprotobuf-c)
$(call unit_test,cri-server/image/platform_test.c,image store common,jansson libprotobuf-c)
$(call unit_test,cri-server/image/skopeo_test.c,image store common,sqlite3 jansson libcrypto libprotobuf-c)
$(call library,image-fixture,cri-server/image/image_fixture.c)
$(foreach t,image collect pull pull_hostile,$(call unit_test,cri-server/image/$(t)_test.c,image-fixture image store common,sqlite3 jansson libarchive libcrypto libprotobuf-c))
$(foreach t,image collect pull pull_hostile,$(B)/cri-server/image/$(t)_test): | $(B)/cri-server/image/bulkhead-unpack
$(call fuzz_target,cri-server/image/manifest_fuzz.c,image store common,jansson libprotobuf-c)
$(call fuzz_target,cri-server/image/unpack_fuzz.c,unpack common,libarchive libcrypto)
