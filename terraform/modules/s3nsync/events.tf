# --- from the bucket to the function --------------------------------------------------------------------------------
# Either S3 calls the function itself, or EventBridge does by a rule for each bucket. Keys come form-encoded on the first
# way and raw on the second; the function knows both.

locals {
  # S3 refuses overlapping filters, so of nested prefixes only the outermost is asked for; the routes sort out the rest.
  prefixes = {
    for bucket in local.buckets : bucket => [
      for prefix in distinct([for route in var.routes : route.prefix if route.bucket == bucket]) : prefix
      if length([
        for route in var.routes : route
        if route.bucket == bucket && route.prefix != prefix && startswith(prefix, route.prefix)
      ]) == 0
    ]
  }
  suffixes = length(var.event_suffixes) > 0 ? var.event_suffixes : [""]

  by_eventbridge = var.event_path == "eventbridge"
}

# Asked once more, as the last thing before: the first answer is from before all else was made. An apply that failed in
# between may be taken up days later, and two deployments of one apply that share a bucket by mistake both found it free.
resource "terraform_data" "bucket_is_still_free" {
  for_each = terraform_data.bucket_is_free

  triggers_replace = [each.key]

  provisioner "local-exec" {
    command = "python3 '${path.module}/scripts/preflight.py' notifications"
    environment = {
      PREFLIGHT_BUCKET = each.key
      PREFLIGHT_OURS   = var.name
      PREFLIGHT_REGION = data.aws_s3_bucket.source[each.key].region
    }
  }

  # All that the notification itself waits for.
  depends_on = [
    aws_lambda_permission.s3,
    aws_lambda_function_event_invoke_config.intake,
    aws_cloudwatch_event_target.source,
    aws_lambda_permission.eventbridge,
  ]
}

resource "aws_s3_bucket_notification" "source" {
  for_each = var.manage_bucket_notification ? local.buckets : []

  bucket      = each.key
  eventbridge = local.by_eventbridge

  dynamic "lambda_function" {
    for_each = local.by_eventbridge ? [] : setproduct(local.prefixes[each.key], local.suffixes)
    content {
      id                  = "${var.name}-${substr(sha1(join("*", lambda_function.value)), 0, 8)}"
      lambda_function_arn = aws_lambda_function.intake.arn
      events = [
        "s3:ObjectCreated:*",
        "s3:ObjectRemoved:*",
        "s3:LifecycleExpiration:*",
        "s3:ObjectRestore:Completed", # an archived object that was set aside can be read now
      ]
      # Filters are compared with the key in the form that events carry: encoded, "/" left alone.
      filter_prefix = replace(urlencode(lambda_function.value[0]), "%2F", "/")
      filter_suffix = replace(urlencode(lambda_function.value[1]), "%2F", "/")
    }
  }

  lifecycle {
    precondition { # AWS General Reference, "Amazon S3 endpoints and quotas": 100 event notifications for each bucket
      condition     = local.by_eventbridge || length(local.prefixes[each.key]) * length(local.suffixes) <= 100
      error_message = "Bucket ${each.key}: ${length(local.prefixes[each.key])} prefixes, each with ${length(local.suffixes)} suffixes, and S3 takes 100 notifications for a bucket. Leave event_suffixes out, or use event_path = \"eventbridge\"."
    }
  }

  depends_on = [aws_lambda_permission.s3, terraform_data.bucket_is_still_free] # S3 tries the permission when this is set
}

resource "aws_lambda_permission" "s3" {
  for_each = local.by_eventbridge ? [] : local.buckets

  statement_id   = "s3-${substr(sha1(each.key), 0, 8)}"
  action         = "lambda:InvokeFunction"
  function_name  = aws_lambda_function.intake.function_name
  principal      = "s3.amazonaws.com"
  source_arn     = data.aws_s3_bucket.source[each.key].arn
  source_account = local.account # a bucket's ARN names no account: somebody else could make a deleted one again
}

# --- the other way: EventBridge -------------------------------------------------------------------------------------

locals {
  # A wildcard only where there is a prefix and a suffix: EventBridge refuses rules whose wildcards cost it too much. In
  # one, * and \ in a prefix are meant as they are.
  key_patterns = {
    for bucket, prefixes in local.prefixes : bucket => [
      for pair in setproduct(prefixes, local.suffixes) : merge(
        pair[1] == "" ? { prefix = pair[0] } : {},
        pair[0] == "" && pair[1] != "" ? { suffix = pair[1] } : {},
        pair[0] == "" || pair[1] == "" ? {} : {
          wildcard = "${replace(replace(pair[0], "\\", "\\\\"), "*", "\\*")}*${replace(replace(pair[1], "\\", "\\\\"), "*", "\\*")}"
        },
      )
    ]
  }
  event_patterns = {
    for bucket, keys in local.key_patterns : bucket => jsonencode({
      source      = ["aws.s3"]
      detail-type = ["Object Created", "Object Deleted", "Object Restore Completed"]
      detail      = { bucket = { name = [bucket] }, object = { key = keys } }
    })
  }
}

resource "aws_cloudwatch_event_rule" "source" {
  for_each = local.by_eventbridge ? local.buckets : []

  name          = "${var.name}-s3-${substr(sha1(each.key), 0, 8)}"
  description   = "Changes in s3://${each.key} to the function ${aws_lambda_function.intake.function_name}"
  event_pattern = local.event_patterns[each.key]

  lifecycle {
    precondition { # EventBridge User Guide, "Amazon EventBridge quotas": 2,048 characters for an event pattern
      condition     = length(local.event_patterns[each.key]) <= 2048
      error_message = "Bucket ${each.key}: ${length(local.prefixes[each.key])} prefixes, each with ${length(local.suffixes)} suffixes, make a rule of ${length(local.event_patterns[each.key])} characters, and EventBridge takes 2048. Leave event_suffixes out, or give fewer and shorter prefixes: the function drops what no route takes."
    }
  }
}

resource "aws_cloudwatch_event_target" "source" {
  for_each = aws_cloudwatch_event_rule.source

  rule = each.value.name
  arn  = aws_lambda_function.intake.arn

  # EventBridge's own most: a day, 185 times. What still fails goes where Lambda's failures go.
  retry_policy {
    maximum_event_age_in_seconds = 86400
    maximum_retry_attempts       = 185
  }
  dead_letter_config {
    arn = aws_sqs_queue.failure.arn
  }
}

resource "aws_lambda_permission" "eventbridge" {
  for_each = aws_cloudwatch_event_rule.source

  statement_id  = "events-${substr(sha1(each.key), 0, 8)}"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.intake.function_name
  principal     = "events.amazonaws.com"
  source_arn    = each.value.arn
}
