# --- the function's archive -----------------------------------------------------------------------------------------
# Built by the project's own command when its sources change. The hash is of the sources, not of the archive, so a plan
# needs no build; the archive is the same, byte for byte, wherever it is built.

locals {
  # The modules that travel in the archive, as lambda_zip.py lists them.
  archive_modules = flatten(regexall("\"(\\w+)\"", regex("MODULES: Final = \\([^)]*\\)", file("${local.repository_root}/src/s3nsync/lambda_zip.py"))))
  archive_hash = base64sha256(join("", [
    for name in concat(local.archive_modules, ["lambda_zip"]) : filesha256("${local.repository_root}/src/s3nsync/${name}.py")
  ]))
  # Named after the deployment: several calls of this module may build at the same time.
  archive = "${path.module}/build/${var.name}-intake.zip"
}

resource "terraform_data" "archive" {
  triggers_replace = [local.archive_hash, var.architecture, var.name] # a new name is a new file

  provisioner "local-exec" {
    command = "python3 '${local.repository_root}/src/s3nsync/lambda_zip.py' '${local.archive}'"
  }

  depends_on = [terraform_data.routes_are_sound, terraform_data.bucket_is_free, terraform_data.endpoint_is_missing]
}

# --- the function ---------------------------------------------------------------------------------------------------

resource "aws_lambda_function" "intake" {
  #checkov:skip=CKV_AWS_116: failures go to the failure queue by aws_lambda_function_event_invoke_config
  #checkov:skip=CKV_AWS_117: it talks to SQS only; in a VPC it would need a NAT or an endpoint to do so
  #checkov:skip=CKV_AWS_272: the archive is built from these sources in the same apply; nobody else could sign it
  #checkov:skip=CKV_AWS_173: routes and queue URLs are no secrets; AWS encrypts them with a key of its own
  #checkov:skip=CKV_AWS_115: intake_concurrency reserves calls where the account's limit is shared
  #checkov:skip=CKV_AWS_50: one call and its log line say all; a trace of one SQS call adds only cost
  function_name                  = "${var.name}-intake"
  description                    = "Queues changes in S3 for replication to NetStorage"
  role                           = aws_iam_role.this["intake"].arn
  runtime                        = "python3.13"
  architectures                  = [var.architecture == "ARM64" ? "arm64" : "x86_64"]
  handler                        = "s3nsync.intake.handler"
  filename                       = local.archive
  source_code_hash               = local.archive_hash
  memory_size                    = 256
  timeout                        = 60
  reserved_concurrent_executions = coalesce(var.intake_concurrency, -1)

  environment {
    variables = {
      QUEUE_URL                 = aws_sqs_queue.live.url
      S3NSYNC_ROUTES            = local.routes_json
      S3NSYNC_DEAD_QUEUE_URL    = aws_sqs_queue.dead.url
      S3NSYNC_FAILURE_QUEUE_URL = aws_sqs_queue.failure.url
    }
  }

  logging_config {
    log_format = "JSON"
    log_group  = aws_cloudwatch_log_group.this["intake"].name
  }

  depends_on = [terraform_data.archive, aws_iam_role_policy_attachment.this]
}

resource "aws_lambda_function_event_invoke_config" "intake" {
  function_name                = aws_lambda_function.intake.function_name
  maximum_event_age_in_seconds = 21600 # throttled calls and Lambda's own faults are tried for six hours, its most
  maximum_retry_attempts       = 2

  destination_config {
    on_failure {
      destination = aws_sqs_queue.failure.arn
    }
  }
}

# --- what failed is tried again -------------------------------------------------------------------------------------
# The same function empties the failure queue: it knows a schedule's event from one of S3.

resource "aws_cloudwatch_event_rule" "drain" {
  name                = "${var.name}-drain-failures"
  description         = "Lets ${var.name}-intake queue what earlier calls could not"
  schedule_expression = "rate(5 minutes)"

  depends_on = [terraform_data.routes_are_sound, terraform_data.bucket_is_free, terraform_data.endpoint_is_missing]
}

resource "aws_cloudwatch_event_target" "drain" {
  rule = aws_cloudwatch_event_rule.drain.name
  arn  = aws_lambda_function.intake.arn
}

resource "aws_lambda_permission" "drain" {
  statement_id  = "drain"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.intake.function_name
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.drain.arn
}
