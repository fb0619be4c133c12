$(call library,fsck,$(addprefix cri-server/fsck/,fsck.c places.c host.c leases.c images.c guests.c))
$(call unit_test,cri-server/fsck/fsck_test.c,fsck image store agent-client hypervisor network config common,sqlite3 libcyaml libcrypto libvirt libxml-2.0 libnl-3.0 libnl-route-3.0 jansson libprotobuf-c)
$(call unit_test,cri-server/fsck/guests_test.c,fsck image store agent-client hypervisor network config common,sqlite3 libcyaml libcrypto libvirt libxml-2.0 libnl-3.0 libnl-route-3.0 jansson libprotobuf-c)
