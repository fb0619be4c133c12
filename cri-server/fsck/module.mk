$(call library,fsck,$(addprefix cri-server/fsck/,fsck.c places.c host.c images.c))
$(call unit_test,cri-server/fsck/fsck_test.c,fsck image store hypervisor config common,sqlite3 libcyaml libcrypto libprotobuf-c)
