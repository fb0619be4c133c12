CLI_SOURCES := $(addprefix cri-server/cli/,main.c lists.c image_commands.c progress.c exec.c logs.c rm.c run.c timings.c \
	find.c pod.c check.c check_machine.c check_network.c check_programs.c fsck.c)
CLI_SOURCES += $(addprefix cri-server/cli/,help.c console.c attach.c session.c terminal.c upgrade.c link.c tunnel.c port_forward.c)
CLI_SOURCES += $(addprefix cri-server/cli/,inspect.c events.c stats.c cp.c)
CLI_PKGS := grpc sqlite3 libarchive libssl libcrypto libvirt libxml-2.0 libnl-3.0 libnl-route-3.0 jansson libcyaml libprotobuf-c zlib -lwslay
# What has unit tests of its own.
$(call library,cli,$(addprefix cri-server/cli/,options.c output.c log_file.c refs.c ports.c message_json.c document.c log_time.c copy_args.c detach.c tar_in.c tar_out.c))
$(call program,bulkheadctl,cri-server/cli,$(CLI_SOURCES),cli stream rpc cri-proto fsck image store agent-client hypervisor network \
	config common,$(CLI_PKGS))
# libnl keeps its headers in a directory of its own.
$(B)/cri-server/cli/check_network.o: CPPFLAGS += -I/usr/include/libnl3

$(call unit_test,cri-server/cli/options_test.c,cli common,libprotobuf-c)
$(call unit_test,cri-server/cli/output_test.c,cli common,libprotobuf-c)
$(call unit_test,cri-server/cli/log_file_test.c,cli common,libprotobuf-c)
$(call fuzz_target,cri-server/cli/log_file_fuzz.c,cli common,)
$(call unit_test,cri-server/cli/ports_test.c,cli common,)
$(call unit_test,cri-server/cli/document_test.c,cli cri-proto common,libprotobuf-c jansson)
$(call unit_test,cri-server/cli/log_time_test.c,cli common,)
$(call unit_test,cri-server/cli/detach_test.c,cli,)
$(call unit_test,cri-server/cli/copy_test.c,cli common,libarchive)
$(call fuzz_target,cri-server/cli/tar_in_fuzz.c,cli common,libarchive)
