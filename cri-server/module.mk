RUNTIME_SOURCES := $(addprefix cri-server/runtime/,runtime.c labels.c machine.c sandbox.c \
	bring_up.c turns.c guest_network.c network_job.c network_spec.c sandbox_service.c sandbox_check.c disks.c devices.c volumes.c volume_source.c dir_watch.c mirror.c mirror_read.c process.c security.c user_namespace.c signals.c exec.c \
	logs.c status.c steps.c load.c recover.c)
RUNTIME_SOURCES += $(addprefix cri-server/runtime/,usage.c stats.c stats_service.c \
	metrics.c events.c resources.c resources_service.c sizing.c grow.c pin.c cpu_list.c cgroup_parent.c)
RUNTIME_SOURCES += $(addprefix cri-server/runtime/,streaming.c debug_console.c fanout.c)
RUNTIME_SOURCES += $(addprefix cri-server/runtime/,container.c container_create.c container_run.c \
	container_log.c container_service.c)
$(call library,runtime,$(RUNTIME_SOURCES))
$(call library,config,cri-server/config.c)

DAEMON_LIBS := runtime stream seccomp image store rpc cri-proto agent-client hypervisor network config common
DAEMON_PKGS := grpc libvirt libxml-2.0 libnl-3.0 libnl-route-3.0 sqlite3 jansson libcyaml libarchive libcap libseccomp \
	libcrypto libprotobuf-c libmicrohttpd libssl zlib -lwslay
$(call program,bulkheadd,cri-server,cri-server/main.c,$(DAEMON_LIBS),$(DAEMON_PKGS))

$(call unit_test,cri-server/config_test.c,config common,libcyaml libprotobuf-c)
$(call unit_test,cri-server/runtime/steps_test.c,runtime common,libprotobuf-c)
$(call unit_test,cri-server/runtime/turns_test.c,runtime common,libprotobuf-c)
$(call unit_test,cri-server/runtime/network_spec_test.c,runtime cri-proto common,libprotobuf-c)
$(call unit_test,cri-server/runtime/signals_test.c,runtime cri-proto common,libprotobuf-c)
$(call unit_test,cri-server/runtime/sizing_test.c,runtime cri-proto common,libprotobuf-c)
$(call unit_test,cri-server/runtime/cpu_list_test.c,runtime common,libprotobuf-c)
$(call unit_test,cri-server/runtime/cgroup_parent_test.c,runtime common,libprotobuf-c)
$(call unit_test,cri-server/runtime/logs_test.c,runtime agent-client common,libprotobuf-c)
$(call unit_test,cri-server/runtime/process_test.c,runtime seccomp image cri-proto store agent-client common,sqlite3 libcap libseccomp jansson libprotobuf-c)
$(call fuzz_target,cri-server/runtime/config_fuzz.c,runtime seccomp image cri-proto rpc store agent-client common,sqlite3 libcap libseccomp jansson libprotobuf-c grpc)
$(call unit_test,cri-server/runtime/mirror_test.c,runtime image store agent-client cri-proto common,libprotobuf-c)
$(call unit_test,cri-server/runtime/mirror_watch_test.c,runtime image store agent-client cri-proto common,libprotobuf-c)
$(call unit_test,cri-server/runtime/volumes_test.c,runtime image store agent-client cri-proto common,libprotobuf-c)
$(call unit_test,cri-server/runtime/recover_test.c,runtime store agent-client cri-proto common,libprotobuf-c)
$(call unit_test,cri-server/runtime/container_test.c,$(DAEMON_LIBS),$(DAEMON_PKGS))
$(call unit_test,cri-server/runtime/container_stop_test.c,$(DAEMON_LIBS),$(DAEMON_PKGS))
$(call library,no-agent,cri-server/runtime/no_agent.c)
$(call unit_test,cri-server/runtime/exec_test.c,$(subst agent-client,no-agent agent-client,$(DAEMON_LIBS)),$(DAEMON_PKGS))
$(call unit_test,cri-server/runtime/resources_service_test.c,$(subst agent-client,no-agent agent-client,$(DAEMON_LIBS)),$(DAEMON_PKGS))

$(call library,seccomp,$(addprefix cri-server/seccomp/,parse.c compile.c default.c cache.c))
$(call unit_test,cri-server/seccomp/profile_test.c,seccomp common,libseccomp jansson)
$(call unit_test,cri-server/seccomp/cache_test.c,seccomp common,libseccomp jansson)
$(call fuzz_target,cri-server/seccomp/profile_fuzz.c,seccomp common,libseccomp jansson)
