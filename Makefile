# One non-recursive Makefile. A room adds its parts by a module.mk that calls these:
#
#   $(call library,NAME,SOURCES)                 build/V/libNAME.a of host objects
#   $(call program,NAME,DIR,SOURCES,LIBS,PKGS)   build/V/DIR/NAME for the host
#   $(call guest_program,NAME,DIR,SOURCES,PKGS)  build/V/DIR/NAME, static, for the guest
#   $(call unit_test,SOURCE,LIBS,PKGS)           build/V/<source without .c>, run by `make unit`
#   $(call fuzz_target,SOURCE,LIBS,PKGS)         build/V/<source without .c>; replays its corpus in
#                                                `make unit`, fuzzes where VARIANT=fuzz
#   $(call proto,FILE)                           build/gen/<file>.pb-c.[ch]; list its source as the
#                                                generated .c where it is linked
#
# SOURCES are paths from the root. LIBS are names of libraries in link order; PKGS are pkg-config
# names. VARIANT is release (the default), asan, tsan or fuzz; V=1 shows the commands.

VARIANT ?= release
B := build/$(VARIANT)
G := build/gen
CC := gcc
JOBS := $(shell nproc)
Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-7s %s\n' '$(1)' '$(2)')

WARNINGS := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wformat=2 -Wundef -Werror
CPPFLAGS := -D_GNU_SOURCE -I. -I$(G)
CFLAGS := -std=c11 -g $(WARNINGS) -fPIE
LDFLAGS := -pie -Wl,-z,relro,-z,now

CFLAGS_release := -O2 -D_FORTIFY_SOURCE=2 -fstack-protector-strong
# Warnings that depend on the optimiser are true in the release build alone.
CFLAGS_checked := -O1 -fno-omit-frame-pointer -Wno-unknown-warning-option \
	-Wno-format-truncation -Wno-maybe-uninitialized -Wno-stringop-overflow
CFLAGS_asan := $(CFLAGS_checked) -fsanitize=address,undefined -fno-sanitize-recover=undefined
# It cannot follow fences: ours order the memory of the guest, which no second thread here touches.
CFLAGS_tsan := $(CFLAGS_checked) -fsanitize=thread -Wno-tsan
CFLAGS_fuzz := $(CFLAGS_checked) -fsanitize=fuzzer-no-link,address,undefined
ifeq ($(VARIANT),fuzz)
CC := clang-14
endif
ifeq ($(CFLAGS_$(VARIANT)),)
$(error VARIANT=$(VARIANT): choose release, asan, tsan or fuzz)
endif
CFLAGS += $(CFLAGS_$(VARIANT))
# The guest's agent is one static program, which no sanitizer runtime but UBSan's can be part of.
GUEST_CFLAGS := $(filter-out $(CFLAGS_$(VARIANT)),$(CFLAGS)) $(if $(filter asan,$(VARIANT)),\
	$(CFLAGS_checked) -fsanitize=undefined -fno-sanitize-recover=undefined,$(CFLAGS_release))

PROGRAMS :=
TESTS :=
FUZZERS :=
OBJECTS :=
GENERATED :=

objects = $(patsubst $(B)/$(G)/%,$(B)/gen/%,$(patsubst %.c,$(B)/$(if $(2),$(2)/)%.o,$(1)))
archives = $(patsubst %,$(B)/lib%.a,$(1))
# A name that begins with -l is a library without a .pc file.
pkgs = $(filter -l%,$(1)) $(if $(filter-out -l%,$(1)),$$$$(pkg-config --libs $(filter-out -l%,$(1))))

define library_rule
$(B)/lib$(1).a: $(call objects,$(2))
OBJECTS += $(call objects,$(2))
endef
library = $(eval $(call library_rule,$(1),$(strip $(2))))

define link_rule
$(1): $(call objects,$(2)) $(call archives,$(3))
	$$(call say,LD,$$@)
	$$(Q)mkdir -p $$(@D)
	$$(Q)$$(CC) $$(CFLAGS) $$(LDFLAGS) $(5) -o $$@ $$^ $(call pkgs,$(4))
OBJECTS += $(call objects,$(2))
endef
define program_rule
$(call link_rule,$(B)/$(2)/$(1),$(3),$(4),$(5))
PROGRAMS += $(B)/$(2)/$(1)
endef
program = $(eval $(call program_rule,$(1),$(2),$(strip $(3)),$(4),$(5)))

define guest_program_rule
$(B)/$(2)/$(1): $(call objects,$(3),guest)
	$$(call say,LD,$$@)
	$$(Q)mkdir -p $$(@D) && $$(CC) $$(GUEST_CFLAGS) -static-pie -o $$@ $$^ $(if $(4),$$$$(pkg-config --static --libs $(4)))
PROGRAMS += $(B)/$(2)/$(1)
OBJECTS += $(call objects,$(3),guest)
endef
guest_program = $(eval $(call guest_program_rule,$(1),$(2),$(strip $(3)),$(4)))

define unit_test_rule
$(call link_rule,$(B)/$(basename $(1)),$(1),$(2),$(3) cmocka)
TESTS += $(B)/$(basename $(1))
endef
unit_test = $(eval $(call unit_test_rule,$(strip $(1)),$(2),$(3)))

fuzz_main := $(if $(filter fuzz,$(VARIANT)),,tests/fuzz/replay.c)
define fuzz_target_rule
$(call link_rule,$(B)/$(basename $(1)),$(1) $(fuzz_main),$(2),$(3),$(if $(fuzz_main),,-fsanitize=fuzzer))
FUZZERS += $(B)/$(basename $(1))
endef
fuzz_target = $(eval $(call fuzz_target_rule,$(strip $(1)),$(2),$(3)))

define proto_rule
$(G)/$(basename $(1)).pb-c.c $(G)/$(basename $(1)).pb-c.h &: $(1)
	$$(call say,PROTO,$(1))
	$$(Q)mkdir -p $(G) && protoc-c --c_out=$(G) $(1)
GENERATED += $(G)/$(basename $(1)).pb-c.h
endef
proto = $(eval $(call proto_rule,$(strip $(1))))

.PHONY: all
all: programs
MODULES := common hypervisor hypervisor/vsock network agent guest-image cri-server cri-server/rpc \
	cri-server/store cri-server/image cri-server/fsck cri-server/stream cri-server/cli packaging tests
-include $(patsubst %,%/module.mk,$(MODULES))

.PHONY: programs unit-programs fuzz-programs unit demo test bench fuzz clean
programs: $(PROGRAMS)
unit-programs: $(TESTS) $(FUZZERS)
fuzz-programs: $(FUZZERS)
unit: unit-programs $(B)/guest/initramfs.cpio
	$(Q)BULKHEAD_INITRAMFS=$(B)/guest/initramfs.cpio tests/run-unit $(TESTS) $(FUZZERS)
# What the README names. Each installs what it needs first.
demo:
	$(Q)packaging/install-deps
	$(Q)$(MAKE) -j$(JOBS) programs initramfs
	$(Q)$(MAKE) kernel
	$(Q)packaging/demo $(IMAGE)
test:
	$(Q)packaging/install-deps --test
	$(Q)tests/install-tools
	$(Q)$(MAKE) -j$(JOBS) programs initramfs
	$(Q)$(MAKE) kernel
	$(Q)tests/run $(SUITES)
bench:
	$(Q)packaging/install-deps --test
	$(Q)$(MAKE) -j$(JOBS) programs initramfs
	$(Q)$(MAKE) kernel
	$(Q)tests/bench/run
fuzz:
	$(Q)packaging/install-deps --test
	$(Q)$(MAKE) -j$(JOBS) VARIANT=fuzz fuzz-programs
	$(Q)tests/run-fuzz $(patsubst $(B)/%,build/fuzz/%,$(FUZZERS))
clean:
	rm -rf build

$(B)/%.a:
	$(call say,AR,$@)
	$(Q)mkdir -p $(@D) && rm -f $@ && ar rcs $@ $^
$(sort $(OBJECTS)): | $(GENERATED)
# Generated code is not held to our warnings.
$(B)/gen/%.o: $(G)/%.c
	$(call say,CC,$<)
	$(Q)mkdir -p $(@D) && $(CC) $(CPPFLAGS) $(CFLAGS) -w -MMD -MP -c -o $@ $<
$(B)/guest/$(G)/%.o: $(G)/%.c
	$(call say,CC,$<)
	$(Q)mkdir -p $(@D) && $(CC) $(CPPFLAGS) $(GUEST_CFLAGS) -w -MMD -MP -c -o $@ $<
$(B)/guest/%.o: %.c
	$(call say,CC,$< (guest))
	$(Q)mkdir -p $(@D) && $(CC) $(CPPFLAGS) $(GUEST_CFLAGS) -MMD -MP -c -o $@ $<
$(B)/%.o: %.c
	$(call say,CC,$<)
	$(Q)mkdir -p $(@D) && $(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<
-include $(patsubst %.o,%.d,$(sort $(OBJECTS)))
