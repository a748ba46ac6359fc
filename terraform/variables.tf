# The first six are the proof of concept's; its commands work unchanged. The rest have defaults. Values are checked in
# modules/s3nsync, where each variable has its rules.

# --- the proof of concept's -----------------------------------------------------------------------------------------

variable "bucket" {
  description = "The S3 bucket to be replicated; it must exist. Not needed with routes."
  type        = string
  default     = null

  validation {
    condition     = (var.bucket != null) != (var.routes != null)
    error_message = "bucket: give either bucket and cpcode, or routes, not both and not neither."
  }
}

variable "cpcode" {
  description = "Akamai NetStorage CP code: its number. Not needed with routes."
  type        = string
  default     = null

  validation {
    condition     = (var.cpcode != null) == (var.bucket != null)
    error_message = "cpcode: goes with bucket; give both, or neither and routes."
  }
}

variable "accountid" {
  description = "AWS account ID; with credentials of any other account nothing is done."
  type        = string

  validation {
    condition     = can(regex("^[0-9]{12}$", var.accountid))
    error_message = "accountid: must be an AWS account's 12 digits: aws sts get-caller-identity shows yours."
  }
}

variable "region" {
  description = "AWS region of the bucket and of everything made here."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region: must be a region's name, such as eu-central-1."
  }
}

variable "secret" {
  description = "Upload account `default`: NS_HOSTNAME, NS_USER and NS_KEY. Written to Secrets Manager; in no state, no plan. Give it with every plan and apply, or keep the secret yourself: secret_arns."
  type        = map(string)
  default     = null
  ephemeral   = true
  sensitive   = true
}

variable "natgwrtid" {
  description = "Route table with a default route to a NAT gateway; two private subnets are made in its VPC. Not needed with subnet_ids."
  type        = string
  default     = null
}

# --- more than one bucket, or more than its whole -------------------------------------------------------------------

variable "name" {
  description = "Name of this deployment: the beginning of every resource's name, and unique in account and region."
  type        = string
  default     = "s3nsync"
  nullable    = false
}

variable "routes" {
  description = "Which keys go where, in the product's one schema (docs/configuration.md, Routes), in place of bucket and cpcode."
  type        = any # a typed object would drop what it does not know without a word: `delete` for `deletes`, say
  default     = null

  validation {
    condition = var.routes == null || try(alltrue([
      for route in var.routes : length(setsubtract(keys(route), [
        "bucket", "cpcode", "directory", "prefix", "strip_prefix", "include", "exclude",
        "account", "deletes", "trash", "folder_markers", "content_encoding", "settle_s",
      ])) == 0
    ]), false)
    error_message = "routes: must be a list of objects with no other keys than bucket, cpcode, directory, prefix, strip_prefix, include, exclude, account, deletes, trash, folder_markers, content_encoding and settle_s."
  }
}

# --- secrets ---------------------------------------------------------------------------------------------------------

variable "secret_version" {
  description = "Raise it by one to write a changed `secret`: Terraform cannot see that a write-only value changed."
  type        = number
  default     = 1
  nullable    = false
}

variable "secret_arns" {
  description = "Existing Secrets Manager secrets by upload account, each JSON with NS_HOSTNAME, NS_USER, NS_KEY. `default` replaces `secret`; others serve routes with that `account`."
  type        = map(string)
  default     = {}
  nullable    = false
}

# --- events ----------------------------------------------------------------------------------------------------------

variable "event_path" {
  description = "How events reach the function: `notification` (S3 calls it; cheapest, quickest) or `eventbridge` (for buckets that others listen to as well)."
  type        = string
  default     = "notification"
  nullable    = false
}

variable "event_suffixes" {
  description = "Only keys that end so cause a call, such as [\".mp4\", \".m3u8\"]; empty means all. Saves calls; what is replicated is the routes' business."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "manage_bucket_notification" {
  description = "Set the buckets' notification settings. They are one whole, so false where something else owns them: then point them at this module's function (or turn EventBridge on) there."
  type        = bool
  default     = true
  nullable    = false
}

variable "intake_concurrency" {
  description = "Calls of the function reserved for it, and its limit. By default it shares the account's."
  type        = number
  default     = null
}

# --- network ---------------------------------------------------------------------------------------------------------

variable "subnet_ids" {
  description = "Existing subnets for the tasks, with a way out to the internet (443), instead of new ones."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "subnet_cidrs" {
  description = "Address ranges of the two new subnets. By default the two highest free ranges of the VPC, chosen once and kept."
  type        = list(string)
  default     = null
}

variable "create_s3_endpoint" {
  description = "Make an S3 gateway endpoint for nat_route_table_id, so that S3 traffic costs no NAT fees. False where the table has one: AWS refuses a second."
  type        = bool
  default     = true
  nullable    = false
}

# --- worker ----------------------------------------------------------------------------------------------------------

variable "image" {
  description = "URI of the worker's image. By default Terraform builds it with docker, podman or buildah and pushes it to a repository of its own."
  type        = string
  default     = null
}

variable "architecture" {
  description = "Processor of tasks and function: ARM64 (a fifth cheaper) or X86_64."
  type        = string
  default     = "ARM64"
  nullable    = false
}

variable "cpu" {
  description = "CPU units of a task; 1024 is one core. Throughput of small objects goes with it."
  type        = number
  default     = 512
  nullable    = false
}

variable "memory" {
  description = "Memory of a task in MiB. The worker needs less than 256; the rest is Fargate's smallest size for the cpu."
  type        = number
  default     = 1024
  nullable    = false
}

variable "spot" {
  description = "Run tasks on Fargate Spot, about 70 % cheaper. AWS may take one with two minutes' notice: work in hand goes back to the queue."
  type        = bool
  default     = false
  nullable    = false
}

variable "min_tasks" {
  description = "Tasks that always run, about 14 dollars a month each. 0 costs nothing at rest, and the first event after a rest waits for a task to start: minutes, a quarter of an hour at worst."
  type        = number
  default     = 1
  nullable    = false
}

variable "max_tasks" {
  description = "Most tasks that a backlog may start."
  type        = number
  default     = 10
  nullable    = false
}

variable "worker_environment" {
  description = "Further settings of the worker by their environment names, such as { S3NSYNC_WORKER_MAX_IN_FLIGHT = \"128\", NS_BYTES_PER_S_VIDEO = \"5000000\" } (docs/configuration.md). No secrets: they are visible."
  type        = map(string)
  default     = {}
  nullable    = false
}

# --- the rest --------------------------------------------------------------------------------------------------------

variable "kms_key_arn" {
  description = "KMS key for queues, secret, logs, images and alarms. By default the module makes one; README.md says what an own key's policy must allow."
  type        = string
  default     = null
}

variable "bucket_kms_key_arns" {
  description = "Keys that encrypt the buckets' objects (SSE-KMS): the worker may decrypt with them."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "operations" {
  description = "What is kept and told: `log_retention_days` (30); `alarm_topic_arn`, the SNS topic for alarms (by default the module makes one; subscribe to it); `verify_every_hours`, 1 to 84: how often both sides are proven equal (never by default)."
  type        = any # as with routes: a misspelt key would be dropped without a word
  default     = {}
  nullable    = false

  validation {
    condition     = try(length(setsubtract(keys(var.operations), ["log_retention_days", "alarm_topic_arn", "verify_every_hours"])) == 0, false)
    error_message = "operations: must be an object with no other keys than log_retention_days, alarm_topic_arn and verify_every_hours."
  }
}

variable "tags" {
  description = "Tags for everything that is made, besides application and deployment."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition = length(var.tags) <= 45 && alltrue([
      for key, value in var.tags :
      can(regex("^[\\p{L}\\p{Z}\\p{N}_.:/=+@-]{1,128}$", key)) &&
      can(regex("^[\\p{L}\\p{Z}\\p{N}_.:/=+@-]{0,256}$", value)) &&
      !startswith(lower(key), "aws:")
    ])
    error_message = "tags: at most 45; keys of 1 to 128, values of up to 256 letters, digits, spaces and _ . : / = + - @, no key beginning with aws:."
  }
}
