# --- how many tasks -------------------------------------------------------------------------------------------------
# Out by the backlog for each running task, in two ways: steps answer a burst within a minute, target tracking settles on
# the right number. In only when all three queues are empty and nothing is in flight, so that no upload is cut short: a
# task that stops gives its work back, and it would begin anew elsewhere.
#
# With no task running any waiting message counts as a full backlog: that is how 0 becomes 1.

locals {
  # What one task works off in about a minute with objects of some 100 KiB: a backlog of that size is lag we accept.
  backlog_per_task = 500

  # Metrics of the queues as CloudWatch's alarms and target tracking want them.
  queue_metrics = {
    live_waiting   = { queue = aws_sqs_queue.live.name, metric = "ApproximateNumberOfMessagesVisible" }
    bulk_waiting   = { queue = aws_sqs_queue.bulk.name, metric = "ApproximateNumberOfMessagesVisible" }
    check_waiting  = { queue = aws_sqs_queue.check.name, metric = "ApproximateNumberOfMessagesVisible" }
    live_inflight  = { queue = aws_sqs_queue.live.name, metric = "ApproximateNumberOfMessagesNotVisible" }
    bulk_inflight  = { queue = aws_sqs_queue.bulk.name, metric = "ApproximateNumberOfMessagesNotVisible" }
    check_inflight = { queue = aws_sqs_queue.check.name, metric = "ApproximateNumberOfMessagesNotVisible" }
  }
  waiting_metrics = { for id, each in local.queue_metrics : id => each if endswith(id, "_waiting") }

  # SQS stops sending figures for a queue that rests for hours, Container Insights for a service without tasks: zero.
  waiting_expression = join("+", [for id in keys(local.waiting_metrics) : "FILL(${id},0)"])
  backlog_expression = "IF(FILL(tasks,0)<1, IF(waiting>0,${local.backlog_per_task},0), waiting/FILL(tasks,1))"
}

resource "aws_appautoscaling_target" "worker" {
  service_namespace  = "ecs"
  resource_id        = "service/${aws_ecs_cluster.this.name}/${aws_ecs_service.worker.name}"
  scalable_dimension = "ecs:service:DesiredCount"
  min_capacity       = var.min_tasks
  max_capacity       = var.max_tasks
}

# --- out ------------------------------------------------------------------------------------------------------------

resource "aws_appautoscaling_policy" "burst" {
  name               = "${var.name}-burst"
  policy_type        = "StepScaling"
  service_namespace  = aws_appautoscaling_target.worker.service_namespace
  resource_id        = aws_appautoscaling_target.worker.resource_id
  scalable_dimension = aws_appautoscaling_target.worker.scalable_dimension

  step_scaling_policy_configuration {
    adjustment_type         = "ChangeInCapacity"
    metric_aggregation_type = "Maximum"
    cooldown                = 120 # a task takes a minute or two to start; count it before starting more

    # Bounds are above the alarm's threshold, one task's backlog.
    step_adjustment {
      metric_interval_lower_bound = 0
      metric_interval_upper_bound = 4 * local.backlog_per_task
      scaling_adjustment          = 1
    }
    step_adjustment {
      metric_interval_lower_bound = 4 * local.backlog_per_task
      metric_interval_upper_bound = 16 * local.backlog_per_task
      scaling_adjustment          = 2
    }
    step_adjustment {
      metric_interval_lower_bound = 16 * local.backlog_per_task
      scaling_adjustment          = 5
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "burst" {
  alarm_name          = "${var.name}-scale-out"
  alarm_description   = "Scaling, not a fault: more is waiting than the running tasks work off in about a minute."
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = local.backlog_per_task
  evaluation_periods  = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_appautoscaling_policy.burst.arn]

  metric_query {
    id          = "backlog"
    expression  = local.backlog_expression
    label       = "waiting messages for each task"
    return_data = true
  }
  metric_query {
    id         = "waiting"
    expression = local.waiting_expression
    label      = "waiting messages"
  }
  dynamic "metric_query" {
    for_each = local.waiting_metrics
    content {
      id = metric_query.key
      metric {
        namespace   = "AWS/SQS"
        metric_name = metric_query.value.metric
        dimensions  = { QueueName = metric_query.value.queue }
        period      = 60
        stat        = "Maximum"
      }
    }
  }
  metric_query {
    id = "tasks"
    metric {
      namespace   = "ECS/ContainerInsights"
      metric_name = "RunningTaskCount"
      dimensions  = { ClusterName = aws_ecs_cluster.this.name, ServiceName = aws_ecs_service.worker.name }
      period      = 60
      stat        = "Average"
    }
  }
}

resource "aws_appautoscaling_policy" "backlog" {
  name               = "${var.name}-backlog-per-task"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.worker.service_namespace
  resource_id        = aws_appautoscaling_target.worker.resource_id
  scalable_dimension = aws_appautoscaling_target.worker.scalable_dimension

  target_tracking_scaling_policy_configuration {
    target_value       = local.backlog_per_task
    scale_out_cooldown = 120
    disable_scale_in   = true # see "in" below

    customized_metric_specification {
      metrics {
        id          = "backlog"
        expression  = local.backlog_expression
        label       = "waiting messages for each task"
        return_data = true
      }
      metrics {
        id          = "waiting"
        expression  = local.waiting_expression
        label       = "waiting messages"
        return_data = false
      }
      dynamic "metrics" {
        for_each = local.waiting_metrics
        content {
          id          = metrics.key
          return_data = false
          metric_stat {
            stat = "Maximum"
            metric {
              namespace   = "AWS/SQS"
              metric_name = metrics.value.metric
              dimensions {
                name  = "QueueName"
                value = metrics.value.queue
              }
            }
          }
        }
      }
      metrics {
        id          = "tasks"
        return_data = false
        metric_stat {
          stat = "Average"
          metric {
            namespace   = "ECS/ContainerInsights"
            metric_name = "RunningTaskCount"
            dimensions {
              name  = "ClusterName"
              value = aws_ecs_cluster.this.name
            }
            dimensions {
              name  = "ServiceName"
              value = aws_ecs_service.worker.name
            }
          }
        }
      }
    }
  }
}

# --- in -------------------------------------------------------------------------------------------------------------

resource "aws_appautoscaling_policy" "rest" {
  name               = "${var.name}-rest"
  policy_type        = "StepScaling"
  service_namespace  = aws_appautoscaling_target.worker.service_namespace
  resource_id        = aws_appautoscaling_target.worker.resource_id
  scalable_dimension = aws_appautoscaling_target.worker.scalable_dimension

  step_scaling_policy_configuration {
    adjustment_type         = "ExactCapacity"
    metric_aggregation_type = "Maximum"
    cooldown                = 60

    step_adjustment {
      metric_interval_upper_bound = 0
      scaling_adjustment          = var.min_tasks
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "rest" {
  alarm_name          = "${var.name}-scale-in"
  alarm_description   = "Scaling, not a fault: for ten minutes nothing was waiting and nothing in flight."
  comparison_operator = "LessThanOrEqualToThreshold"
  threshold           = 0
  evaluation_periods  = 10
  treat_missing_data  = "breaching" # queues at rest send nothing
  alarm_actions       = [aws_appautoscaling_policy.rest.arn]

  metric_query {
    id          = "outstanding"
    expression  = join("+", [for id in keys(local.queue_metrics) : "FILL(${id},0)"])
    label       = "messages waiting or in flight"
    return_data = true
  }
  dynamic "metric_query" {
    for_each = local.queue_metrics
    content {
      id = metric_query.key
      metric {
        namespace   = "AWS/SQS"
        metric_name = metric_query.value.metric
        dimensions  = { QueueName = metric_query.value.queue }
        period      = 60
        stat        = "Maximum"
      }
    }
  }
}
