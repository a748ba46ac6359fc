# --- logs -----------------------------------------------------------------------------------------------------------

locals {
  log_group_names = {
    intake = "/aws/lambda/${var.name}-intake"
    worker = "/ecs/${var.name}"
  }
  log_group_arns = {
    for part, name in local.log_group_names : part => "arn:${local.partition}:logs:${local.region}:${local.account}:log-group:${name}"
  }
}

resource "aws_cloudwatch_log_group" "this" {
  #checkov:skip=CKV_AWS_338: log_retention_days decides; what was not replicated is in the dead-letter queue, not in the log
  for_each = local.log_group_names

  name              = each.value
  retention_in_days = var.operations.log_retention_days
  kms_key_id        = local.kms_key_arn

  depends_on = [terraform_data.routes_are_sound, terraform_data.bucket_is_free, terraform_data.endpoint_is_missing]
}

# --- alarms ---------------------------------------------------------------------------------------------------------
# Each says in its description what it means and what to do.

resource "aws_sns_topic" "alarms" {
  count = var.operations.alarm_topic_arn == null ? 1 : 0

  name              = "${var.name}-alarms"
  kms_master_key_id = local.kms_key_arn

  depends_on = [terraform_data.routes_are_sound, terraform_data.bucket_is_free, terraform_data.endpoint_is_missing]
}

locals {
  alarm_topic_arn = var.operations.alarm_topic_arn != null ? var.operations.alarm_topic_arn : aws_sns_topic.alarms[0].arn

  # Routes may make changes wait on purpose.
  settle_s = max([for route in var.routes : coalesce(route.settle_s, 0)]...)

  # One metric, one bound each. `minutes` is how long it must hold.
  alarms = {
    dead-letters = {
      means     = "A change will not be replicated. The dead-letter queue holds it, with the reason and what to do."
      namespace = "AWS/SQS", metric = "ApproximateNumberOfMessagesVisible", dimensions = { QueueName = aws_sqs_queue.dead.name }
      statistic = "Maximum", above = 0, minutes = 1, missing = "notBreaching"
    }
    dead-letters-expiring = {
      means     = "A dead letter is seven days old; SQS drops it after fourteen. Retry or drop it, or it is forgotten."
      namespace = "AWS/SQS", metric = "ApproximateAgeOfOldestMessage", dimensions = { QueueName = aws_sqs_queue.dead.name }
      statistic = "Maximum", above = 604800, minutes = 5, missing = "notBreaching"
    }
    oldest-message = {
      means     = "A live change has waited for 15 minutes: NetStorage refuses or throttles, or max_tasks is too low. The worker's log says which."
      namespace = "AWS/SQS", metric = "ApproximateAgeOfOldestMessage", dimensions = { QueueName = aws_sqs_queue.live.name }
      statistic = "Maximum", above = 900 + local.settle_s, minutes = 5, missing = "notBreaching"
    }
    intake-errors = {
      means     = "The function failed. Lambda tries twice more, then the failure queue keeps the event; the function's log says why."
      namespace = "AWS/Lambda", metric = "Errors", dimensions = { FunctionName = aws_lambda_function.intake.function_name }
      statistic = "Sum", above = 0, minutes = 5, missing = "notBreaching"
    }
    intake-failures = {
      means     = "Failed events have stayed for 20 minutes though the function empties the failure queue every five: see its log."
      namespace = "AWS/SQS", metric = "ApproximateNumberOfMessagesVisible", dimensions = { QueueName = aws_sqs_queue.failure.name }
      statistic = "Minimum", above = 0, minutes = 20, missing = "notBreaching"
    }
    lag = {
      means     = "The slowest thousandth of changes took more than 60 s from S3 to NetStorage, for 15 minutes: the goal is 99.9 % within 60 s."
      namespace = "s3nsync", metric = "lag_s", dimensions = { Service = var.name }
      statistic = "p99.9", above = 60 + local.settle_s, minutes = 15, missing = "notBreaching"
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = local.alarms

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.means
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = startswith(each.value.statistic, "p") ? null : each.value.statistic
  extended_statistic  = startswith(each.value.statistic, "p") ? each.value.statistic : null
  comparison_operator = "GreaterThanThreshold"
  threshold           = each.value.above
  period              = 60
  evaluation_periods  = each.value.minutes
  datapoints_to_alarm = each.key == "intake-errors" ? 1 : each.value.minutes # one failure in five minutes is enough
  treat_missing_data  = each.value.missing
  alarm_actions       = [local.alarm_topic_arn]
  ok_actions          = [local.alarm_topic_arn]
}

resource "aws_cloudwatch_metric_alarm" "no_progress" {
  alarm_name          = "${var.name}-no-progress"
  alarm_description   = "Changes wait, and for 15 minutes none was finished: no task runs, or NetStorage or its credentials fail. See the worker's log and the service's events."
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  evaluation_periods  = 3
  treat_missing_data  = "notBreaching"
  alarm_actions       = [local.alarm_topic_arn]
  ok_actions          = [local.alarm_topic_arn]

  metric_query {
    id          = "stuck"
    expression  = "IF(waiting>0 AND FILL(finished,0)==0,1,0)"
    label       = "waiting, and none finished"
    return_data = true
  }
  metric_query {
    id = "waiting"
    metric {
      namespace   = "AWS/SQS"
      metric_name = "ApproximateNumberOfMessagesVisible"
      dimensions  = { QueueName = aws_sqs_queue.live.name }
      period      = 300
      stat        = "Minimum"
    }
  }
  metric_query {
    id = "finished"
    metric {
      namespace   = "AWS/SQS"
      metric_name = "NumberOfMessagesDeleted"
      dimensions  = { QueueName = aws_sqs_queue.live.name }
      period      = 300
      stat        = "Sum"
    }
  }
}

# With no task by choice, no heartbeat is no fault.
resource "aws_cloudwatch_metric_alarm" "no_worker" {
  count = var.min_tasks > 0 ? 1 : 0

  alarm_name          = "${var.name}-no-worker"
  alarm_description   = "No worker has given a sign of life for five minutes. See the service's events and the worker's log."
  namespace           = "s3nsync"
  metric_name         = "heartbeat"
  dimensions          = { Service = var.name }
  statistic           = "Sum"
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  period              = 60
  evaluation_periods  = 5
  treat_missing_data  = "breaching"
  alarm_actions       = [local.alarm_topic_arn]
  ok_actions          = [local.alarm_topic_arn]

  depends_on = [terraform_data.routes_are_sound, terraform_data.bucket_is_free, terraform_data.endpoint_is_missing]
}

# --- dashboard ------------------------------------------------------------------------------------------------------

locals {
  panels = concat([
    {
      title = "Lag, S3 to NetStorage (s)", stat = "p50"
      metrics = [
        ["s3nsync", "lag_s", "Service", var.name, { stat = "p50" }],
        ["s3nsync", "lag_s", "Service", var.name, { stat = "p99.9" }],
      ]
    },
    {
      title = "Backlog", stat = "Maximum"
      metrics = [for queue in [aws_sqs_queue.live, aws_sqs_queue.bulk, aws_sqs_queue.check] :
      ["AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", queue.name]]
    },
    {
      title = "Throughput", stat = "Sum"
      metrics = [
        ["s3nsync", "objects", "Service", var.name],
        ["s3nsync", "bytes", "Service", var.name, { yAxis = "right" }],
      ]
    },
    {
      title = "Errors", stat = "Sum"
      metrics = [
        ["s3nsync", "retries", "Service", var.name],
        ["s3nsync", "buried", "Service", var.name],
        ["AWS/Lambda", "Errors", "FunctionName", aws_lambda_function.intake.function_name],
      ]
    },
    {
      # A window that goes down, with cuts, is NetStorage refusing or slow; waiting at a wide one wants more tasks.
      title = "Each account: objects at once in a task, waiting for a place, cuts", stat = "Average"
      metrics = concat(
        [for account in keys(local.secret_arns) : ["s3nsync", "window", "Service", var.name, "Account", account]],
        [for account in keys(local.secret_arns) : ["s3nsync", "waiting", "Service", var.name, "Account", account]],
        [for account in keys(local.secret_arns) :
        ["s3nsync", "window_cuts", "Service", var.name, "Account", account, { stat = "Sum", yAxis = "right" }]],
      )
    },
    {
      title = "Dead letters and failed events", stat = "Maximum"
      metrics = [for queue in [aws_sqs_queue.dead, aws_sqs_queue.failure] :
      ["AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", queue.name]]
    },
    {
      title = "Tasks", stat = "Average"
      metrics = [[
        "ECS/ContainerInsights", "RunningTaskCount", "ClusterName", aws_ecs_cluster.this.name,
        "ServiceName", aws_ecs_service.worker.name,
      ]]
    },
  ], local.verify_panels)
}

resource "aws_cloudwatch_dashboard" "this" {
  dashboard_name = "${var.name}-${local.region}" # dashboards know no region either: the same name is overwritten without a word
  dashboard_body = jsonencode({
    widgets = [
      for number, panel in local.panels : {
        type = "metric", width = 12, height = 6
        x    = 12 * (number % 2), y = 6 * floor(number / 2)
        properties = {
          title = panel.title, region = local.region, period = 60, stat = panel.stat, metrics = panel.metrics
        }
      }
    ]
  })
}
