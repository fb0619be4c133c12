/* pull and rmi. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/fd.h"
#include "cri-server/cli/cli.h"
#include "cri-server/cli/image_commands.h"
#include "cri-server/cli/output.h"
#include "cri-server/cli/progress.h"

int cli_pull(struct cli *cli, const char *image, char **ret_ref, struct err *err)
{
	Runtime__V1__PullImageRequest request = RUNTIME__V1__PULL_IMAGE_REQUEST__INIT;
	Runtime__V1__ImageSpec spec = RUNTIME__V1__IMAGE_SPEC__INIT;
	spec.image = (char *)image;
	request.image = &spec;
	_cleanup_message_ Runtime__V1__PullImageResponse *response = NULL;

	/* How long it takes is the registry's affair; the server has a limit of its own. */
	cli_note("Pulling %s ...", image);
	struct progress *progress = progress_start(cli, image);
	int r = cli_call(cli, CLI_IMAGES, "PullImage", &request.base, 0, &response, err);
	progress_stop(progress);
	if (r < 0)
		return err_wrap(err, "pull %s", image);
	*ret_ref = TAKE_PTR(response->image_ref);
	return 0;
}

int command_pull(struct cli *cli, char **args)
{
	int exit_code;
	if (!cli_arguments(cli, NULL, 0, &args, 1, 1, &exit_code))
		return exit_code;
	struct err err = ERR_INIT;
	_cleanup_free_ char *ref = NULL;
	if (cli_pull(cli, args[0], &ref, &err) < 0)
		return cli_fail(&err);
	_cleanup_free_ char *escaped = output_escape(ref);
	printf("%s\n", escaped ? escaped : "");
	return EXIT_SUCCESS;
}

/* RemoveImage succeeds for an image that is not there; a person wants to know. */
static int remove_image(struct cli *cli, char *image, struct err *err)
{
	Runtime__V1__ImageSpec spec = RUNTIME__V1__IMAGE_SPEC__INIT;
	spec.image = image;
	Runtime__V1__ImageStatusRequest ask = RUNTIME__V1__IMAGE_STATUS_REQUEST__INIT;
	ask.image = &spec;
	_cleanup_message_ Runtime__V1__ImageStatusResponse *status = NULL;
	int r = cli_call(cli, CLI_IMAGES, "ImageStatus", &ask.base, CLI_SHORT_MS, &status, err);
	if (r < 0)
		return r;
	if (!status->image)
		return err_set(err, -ENOENT, "no image '%s'", image);

	Runtime__V1__RemoveImageRequest request = RUNTIME__V1__REMOVE_IMAGE_REQUEST__INIT;
	request.image = &spec;
	_cleanup_message_ Runtime__V1__RemoveImageResponse *response = NULL;
	return cli_call(cli, CLI_IMAGES, "RemoveImage", &request.base, CLI_LONG_MS, &response, err);
}

int command_rmi(struct cli *cli, char **args)
{
	int exit_code;
	if (!cli_arguments(cli, NULL, 0, &args, 1, SIZE_MAX, &exit_code))
		return exit_code;
	for (; *args; args++) {
		struct err err = ERR_INIT;
		if (remove_image(cli, *args, &err) < 0)
			exit_code = cli_fail(&err);
		else
			printf("%s\n", *args);
	}
	return exit_code;
}
