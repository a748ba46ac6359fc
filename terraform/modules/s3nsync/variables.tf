# --- what is replicated ---------------------------------------------------------------------------------------------

variable "name" {
  description = "Name of this deployment: the beginning of every resource's name, and unique in account and region."
  type        = string
  default     = "s3nsync"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9]*(-[a-z0-9]+)*$", var.name)) && length(var.name) >= 2 && length(var.name) <= 31
    error_message = "name: 2 to 31 lower-case letters and digits, a letter first, with single hyphens between them; IAM, SQS and ECR all take such names."
  }

  validation {
    # Two deployments must not meet: the live queue of `a-bulk` would be the bulk queue of `a`, and `a-verify` would share a
    # task definition's family with it.
    condition     = !can(regex("-(bulk|check|dead|verify)$", var.name)) && !startswith(var.name, "sg-")
    error_message = "name: must not end in -bulk, -check, -dead or -verify, where parts of another deployment have their names, nor begin with sg-, which EC2 keeps for itself."
  }
}

variable "routes" {
  description = "Which keys go where, in the product's one schema (docs/configuration.md, Routes). The buckets must exist."
  type = list(object({
    bucket           = string
    cpcode           = string
    directory        = optional(string)
    prefix           = optional(string, "")
    strip_prefix     = optional(string, "")
    include          = optional(list(string))
    exclude          = optional(list(string))
    account          = optional(string)
    deletes          = optional(string)
    trash            = optional(string)
    folder_markers   = optional(string)
    content_encoding = optional(string)
    settle_s         = optional(number)
  }))
  nullable = false

  validation {
    condition     = length(var.routes) > 0
    error_message = "routes: at least one is wanted, such as [{ bucket = \"my-bucket\", cpcode = \"123456\" }]."
  }

  validation {
    condition     = alltrue([for route in var.routes : can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", route.bucket))])
    error_message = "routes: bucket must be the name of an S3 bucket (not its ARN or URL)."
  }

  validation {
    condition     = alltrue([for route in var.routes : can(regex("^[0-9]{1,20}$", route.cpcode))])
    error_message = "routes: cpcode must be the CP code's number: digits only, such as \"123456\"."
  }

  validation {
    condition = alltrue(flatten([
      for route in var.routes : [
        for part in split("/", trim(coalesce(route.directory, "x"), "/")) :
        part == "x" || !contains(["", ".", ".."], part)
      ]
    ]))
    error_message = "routes: directory must be plain names with a single / between them; \".\", \"..\" and // are refused."
  }

  validation {
    condition = alltrue([
      for route in var.routes :
      coalesce(route.deletes, "mirror") != "trash" || trim(coalesce(route.directory, "/"), "/") != ""
    ])
    error_message = "routes: deletes = \"trash\" needs a directory in the same route, or the trash would lie among its own files."
  }

  validation {
    condition     = alltrue([for route in var.routes : startswith(route.prefix, route.strip_prefix)])
    error_message = "routes: strip_prefix must be a leading part of the same route's prefix."
  }

  validation {
    condition = alltrue([
      for route in var.routes :
      contains(["mirror", "ignore", "trash"], coalesce(route.deletes, "mirror")) &&
      contains(["ignore", "mkdir"], coalesce(route.folder_markers, "ignore")) &&
      contains(["warn", "reject"], coalesce(route.content_encoding, "warn"))
    ])
    error_message = "routes: deletes is mirror, ignore or trash; folder_markers is ignore or mkdir; content_encoding is warn or reject."
  }

  validation {
    condition = alltrue([
      for route in var.routes :
      coalesce(route.settle_s, 0) >= 0 && coalesce(route.settle_s, 0) <= 43200
    ])
    error_message = "routes: settle_s must be from 0 to 43200 seconds (12 hours, the longest that SQS lets a message rest)."
  }

  validation {
    condition     = length(var.routes) == length(distinct([for route in var.routes : "${route.bucket}/${route.prefix}"]))
    error_message = "routes: two of them have the same bucket and prefix; merge them, or make one prefix longer."
  }

  validation {
    # Lambda's whole environment holds 4 KiB; the queues' URLs and names take less than 1 KiB of it. Base64 counts bytes,
    # three in four characters: length() counts letters, and an ideograph has three bytes.
    condition     = length(base64encode(jsonencode([for route in var.routes : { for key, value in route : key => value if value != null && value != "" }]))) <= 4096
    error_message = "routes: together more than 3 KiB of JSON, and Lambda's environment holds 4; use another deployment (another name) for some."
  }
}

# --- NetStorage accounts --------------------------------------------------------------------------------------------

variable "secret" {
  description = "Upload account `default`: NS_HOSTNAME, NS_USER and NS_KEY. Written to Secrets Manager; in no state, no plan. Give it with every plan and apply, or keep the secret yourself: secret_arns."
  type        = map(string)
  default     = null
  ephemeral   = true
  sensitive   = true

  validation {
    condition     = contains(keys(var.secret_arns), "default") || var.secret != null
    error_message = "secret: missing; give {\"NS_HOSTNAME\":…,\"NS_USER\":…,\"NS_KEY\":…}, or the ARN of a secret that holds it: secret_arns = { default = \"arn:…\" }."
  }

  validation {
    condition     = var.secret == null || !contains(keys(var.secret_arns), "default")
    error_message = "secret: secret_arns has an account `default` too; give one or the other."
  }

  validation {
    condition     = var.secret == null || try(sort(keys(var.secret)) == tolist(["NS_HOSTNAME", "NS_KEY", "NS_USER"]), false)
    error_message = "secret: must have NS_HOSTNAME, NS_USER and NS_KEY, and nothing else."
  }

  validation {
    condition     = var.secret == null || try(alltrue([for value in values(var.secret) : length(trimspace(value)) > 0]), false)
    error_message = "secret: NS_HOSTNAME, NS_USER and NS_KEY must not be empty."
  }

  validation {
    condition     = var.secret == null || can(regex("^[A-Za-z0-9.-]+(:[0-9]{1,5})?$", var.secret["NS_HOSTNAME"]))
    error_message = "secret: NS_HOSTNAME must be a bare host name, such as example-nsu.akamaihd.net, without https:// and path."
  }
}

variable "secret_version" {
  description = "Raise it by one to write a changed `secret`: Terraform cannot see that a write-only value changed."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = var.secret_version >= 1 && floor(var.secret_version) == var.secret_version
    error_message = "secret_version: a whole number from 1 up."
  }
}

variable "secret_arns" {
  description = "Existing Secrets Manager secrets by upload account, each JSON with NS_HOSTNAME, NS_USER, NS_KEY. `default` replaces `secret`; others serve routes with that `account`."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for arn in values(var.secret_arns) : can(regex("^arn:[^:]+:secretsmanager:[^:]+:[0-9]{12}:secret:.+", arn))])
    error_message = "secret_arns: each value must be the full ARN of a Secrets Manager secret."
  }

  validation {
    condition     = alltrue([for account in keys(var.secret_arns) : can(regex("^[a-z0-9_]{1,64}$", account))])
    error_message = "secret_arns: an account's name is lower-case letters, digits and _ (it becomes part of an environment variable's)."
  }

  validation {
    condition = alltrue([
      for route in var.routes :
      contains(concat(["default"], keys(var.secret_arns)), coalesce(route.account, "default"))
    ])
    error_message = "secret_arns: a route names an account that has no secret here; add it, or correct the route's account."
  }
}

# --- events ---------------------------------------------------------------------------------------------------------

variable "event_path" {
  description = "How events reach the function: `notification` (S3 calls it; cheapest, quickest) or `eventbridge` (for buckets that others listen to as well)."
  type        = string
  default     = "notification"
  nullable    = false

  validation {
    condition     = contains(["notification", "eventbridge"], var.event_path)
    error_message = "event_path: must be notification or eventbridge."
  }
}

variable "event_suffixes" {
  description = "Only keys that end so cause a call, such as [\".mp4\", \".m3u8\"]; empty means all. Saves calls; what is replicated is the routes' business."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition = alltrue([
      for one in var.event_suffixes :
      one != "" && length([for other in var.event_suffixes : other if endswith(one, other)]) == 1
    ])
    error_message = "event_suffixes: none may be empty or the end of another; S3 refuses filters that overlap."
  }
}

variable "manage_bucket_notification" {
  description = "Set the buckets' notification settings. They are one whole, so false where something else owns them: then point them at this module's function (or turn EventBridge on) there."
  type        = bool
  default     = true
  nullable    = false
}

# --- network --------------------------------------------------------------------------------------------------------

variable "nat_route_table_id" {
  description = "Route table with a default route to a NAT gateway; two private subnets are made in its VPC. Not needed with subnet_ids."
  type        = string
  default     = null

  validation {
    condition     = (var.nat_route_table_id == null) != (length(var.subnet_ids) == 0)
    error_message = "natgwrtid: give either the id of the route table that leads to your NAT gateway, or subnet_ids, not both and not neither."
  }

  validation {
    condition     = var.nat_route_table_id == null || can(regex("^rtb-[0-9a-f]+$", var.nat_route_table_id))
    error_message = "natgwrtid: must be the id of a route table, such as rtb-0123456789abcdef0."
  }
}

variable "subnet_ids" {
  description = "Existing subnets for the tasks, with a way out to the internet (443), instead of new ones."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for id in var.subnet_ids : can(regex("^subnet-[0-9a-f]+$", id))])
    error_message = "subnet_ids: each must be the id of a subnet, such as subnet-0123456789abcdef0."
  }
}

variable "subnet_cidrs" {
  description = "Address ranges of the two new subnets. By default the two highest free ranges of the VPC, chosen once and kept."
  type        = list(string)
  default     = null

  validation {
    condition     = var.subnet_cidrs == null || try(length(var.subnet_cidrs) == 2 && alltrue([for cidr in var.subnet_cidrs : can(cidrhost(cidr, 0))]), false)
    error_message = "subnet_cidrs: two ranges in CIDR form, such as [\"172.31.254.0/24\", \"172.31.255.0/24\"]."
  }

  validation {
    # Two ranges overlap where they are equal in the bits of the shorter prefix.
    condition = var.subnet_cidrs == null || try(length(distinct([
      for cidr in var.subnet_cidrs :
      cidrhost("${split("/", cidr)[0]}/${min([for each in var.subnet_cidrs : tonumber(split("/", each)[1])]...)}", 0)
    ])) == length(var.subnet_cidrs), true) # what is no range is told above
    error_message = "subnet_cidrs: the two ranges overlap each other."
  }
}

variable "create_s3_endpoint" {
  description = "Make an S3 gateway endpoint for nat_route_table_id, so that S3 traffic costs no NAT fees. False where the table has one: AWS refuses a second."
  type        = bool
  default     = true
  nullable    = false
}

# --- worker ---------------------------------------------------------------------------------------------------------

variable "image" {
  description = "URI of the worker's image. By default Terraform builds it with docker, podman or buildah and pushes it to a repository of its own."
  type        = string
  default     = null

  validation {
    condition     = var.image == null || can(regex("^[a-z0-9.:/_-]+(:[A-Za-z0-9._-]+|@sha256:[0-9a-f]{64})$", var.image))
    error_message = "image: must be an image's URI with a tag or digest, such as 123456789012.dkr.ecr.eu-central-1.amazonaws.com/s3nsync:1.0."
  }
}

variable "architecture" {
  description = "Processor of tasks and function: ARM64 (a fifth cheaper) or X86_64."
  type        = string
  default     = "ARM64"
  nullable    = false

  validation {
    condition     = contains(["ARM64", "X86_64"], var.architecture)
    error_message = "architecture: must be ARM64 or X86_64."
  }
}

variable "cpu" {
  description = "CPU units of a task; 1024 is one core. Throughput of small objects goes with it."
  type        = number
  default     = 512
  nullable    = false

  validation {
    condition     = contains([256, 512, 1024, 2048, 4096], var.cpu)
    error_message = "cpu: must be 256, 512, 1024, 2048 or 4096; one task uses one core, so take more tasks rather than more than 2048."
  }
}

variable "memory" {
  description = "Memory of a task in MiB. The worker needs less than 256; the rest is Fargate's smallest size for the cpu."
  type        = number
  default     = 1024
  nullable    = false

  validation {
    # https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-tasks-services.html, "Task CPU and memory"
    condition = contains({
      "256"  = [512, 1024, 2048]
      "512"  = range(1024, 4097, 1024)
      "1024" = range(2048, 8193, 1024)
      "2048" = range(4096, 16385, 1024)
      "4096" = range(8192, 30721, 1024)
    }[tostring(var.cpu)], var.memory)
    error_message = "memory: Fargate has no such size for this cpu; for 256: 512, 1024, 2048; for 512: 1024 to 4096; for 1024: 2048 to 8192; for 2048: 4096 to 16384; for 4096: 8192 to 30720."
  }
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

  validation {
    condition     = var.min_tasks >= 0 && floor(var.min_tasks) == var.min_tasks
    error_message = "min_tasks: a whole number from 0 up."
  }
}

variable "max_tasks" {
  description = "Most tasks that a backlog may start."
  type        = number
  default     = 10
  nullable    = false

  validation {
    condition     = var.max_tasks >= max(1, var.min_tasks) && floor(var.max_tasks) == var.max_tasks
    error_message = "max_tasks: a whole number, at least 1 and at least min_tasks."
  }
}

variable "worker_environment" {
  description = "Further settings of the worker by their environment names, such as { S3NSYNC_WORKER_MAX_IN_FLIGHT = \"128\", NS_BYTES_PER_S_VIDEO = \"5000000\" } (docs/configuration.md). No secrets: they are visible."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition = alltrue([
      for name in keys(var.worker_environment) :
      can(regex("^NS_(MAX_IN_FLIGHT|REQUESTS_PER_S|BYTES_PER_S)(_[A-Z0-9_]+)?$", name)) || contains([
        "S3NSYNC_LOG_LEVEL", "S3NSYNC_METRICS_FLUSH_S", "S3NSYNC_WORKER_BUFFER_BYTES", "S3NSYNC_WORKER_DELETES_PER_MINUTE",
        "S3NSYNC_WORKER_DRAIN_S", "S3NSYNC_WORKER_MAX_IN_FLIGHT", "S3NSYNC_WORKER_MEMORY_BUDGET_BYTES",
        "S3NSYNC_WORKER_MTIME_FROM_METADATA", "S3NSYNC_WORKER_POLL_WAIT_S", "S3NSYNC_WORKER_RANGED_FROM_BYTES",
        "S3NSYNC_WORKER_RANGED_READS", "S3NSYNC_WORKER_UNKNOWN_DIGEST",
      ], name)
    ])
    error_message = "worker_environment: takes NS_MAX_IN_FLIGHT, NS_REQUESTS_PER_S and NS_BYTES_PER_S, these three also with _<ACCOUNT> behind; S3NSYNC_WORKER_ with BUFFER_BYTES, DELETES_PER_MINUTE, DRAIN_S, MAX_IN_FLIGHT, MEMORY_BUDGET_BYTES, MTIME_FROM_METADATA, POLL_WAIT_S, RANGED_FROM_BYTES, RANGED_READS or UNKNOWN_DIGEST; S3NSYNC_LOG_LEVEL and S3NSYNC_METRICS_FLUSH_S. Tasks would refuse other names. Lease, grace, the log's format and the metrics' names are set by the module, because queues and alarms depend on them."
  }

  validation {
    condition = alltrue([
      for found in regexall("NS_(?:MAX_IN_FLIGHT|REQUESTS_PER_S|BYTES_PER_S)_([A-Z0-9_]+)", join(" ", keys(var.worker_environment))) :
      contains(concat(["default"], keys(var.secret_arns)), lower(found[0]))
    ])
    error_message = "worker_environment: a limit names an account that has no secret here; NS_MAX_IN_FLIGHT_VIDEO is for the account `video` of secret_arns."
  }
}

# --- the rest -------------------------------------------------------------------------------------------------------

variable "intake_concurrency" {
  description = "Calls of the function reserved for it, and its limit. By default it shares the account's."
  type        = number
  default     = null

  validation {
    condition     = var.intake_concurrency == null || try(var.intake_concurrency >= 1 && floor(var.intake_concurrency) == var.intake_concurrency, false)
    error_message = "intake_concurrency: a whole number from 1 up; 0 would stop the function."
  }
}

variable "kms_key_arn" {
  description = "KMS key for queues, secret, logs, images and alarms. By default the module makes one; README.md says what an own key's policy must allow."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:[^:]+:kms:[^:]+:[0-9]{12}:key/.+", var.kms_key_arn))
    error_message = "kms_key_arn: must be the ARN of a key (not of an alias)."
  }

  validation {
    condition     = var.kms_key_arn == null || try(split(":", var.kms_key_arn)[3] == local.region, true) # what is no ARN is told above
    error_message = "kms_key_arn: the key is in another region than this deployment; queues, logs and images take only a key of their own."
  }
}

variable "bucket_kms_key_arns" {
  description = "Keys that encrypt the buckets' objects (SSE-KMS): the worker may decrypt with them."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for arn in var.bucket_kms_key_arns : can(regex("^arn:[^:]+:kms:[^:]+:[0-9]{12}:key/.+", arn))])
    error_message = "bucket_kms_key_arns: each must be the ARN of a key (not of an alias)."
  }
}

variable "operations" {
  description = "What is kept and told: `log_retention_days` (30); `alarm_topic_arn`, the SNS topic for alarms (by default the module makes one; subscribe to it); `verify_every_hours`, 1 to 84: how often both sides are proven equal (never by default)."
  type        = object({ log_retention_days = optional(number, 30), alarm_topic_arn = optional(string), verify_every_hours = optional(number) })
  default     = {}
  nullable    = false

  validation {
    # The values that PutRetentionPolicy takes.
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.operations.log_retention_days)
    error_message = "operations: log_retention_days must be one of 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653."
  }

  validation {
    condition     = var.operations.alarm_topic_arn == null || can(regex("^arn:[^:]+:sns:[^:]+:[0-9]{12}:.+", var.operations.alarm_topic_arn))
    error_message = "operations: alarm_topic_arn must be the ARN of an SNS topic."
  }

  validation {
    condition     = var.operations.alarm_topic_arn == null || try(split(":", var.operations.alarm_topic_arn)[3] == local.region, true) # ditto
    error_message = "operations: alarm_topic_arn is in another region than this deployment; CloudWatch's alarms speak to topics of their own region."
  }

  validation {
    # The alarm for a verify that did not come looks back over two of them, and CloudWatch's alarms over a week at most.
    condition     = var.operations.verify_every_hours == null || try(var.operations.verify_every_hours >= 1 && var.operations.verify_every_hours <= 84 && floor(var.operations.verify_every_hours) == var.operations.verify_every_hours, false)
    error_message = "operations: verify_every_hours must be a whole number from 1 to 84; leave it out for no verify."
  }
}
