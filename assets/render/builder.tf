# {= s.generated_by =}
# The builder of remote BuildKit builds: BuildKit {= s.version =} on {= s.arch =}, from the image that the SSM parameter
# {= s.ssm_parameter =} names. Use it as a module, or beside a provider block.
#
# - An Auto Scaling group of one instance (or of var.instances), without public address; agents alone reach port {= s.port =}.
# - A cache volume for each instance. Terraform does not know it: the instance makes it (tag amibake:cache = var.name) and
#   the next instance in its zone takes it over. It outlives instances and `terraform destroy`.
# - If wanted, a name in a private hosted zone, which the instance enters itself once its daemon answers.
#
# After `terraform destroy`, caches are found and deleted with:
#   aws ec2 describe-volumes --filters Name=tag:amibake:cache,Values=NAME --query 'Volumes[].[VolumeId,State,Size]'
#   aws ec2 delete-volume --volume-id VOLUME

terraform {
  required_version = ">= 1.3"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

variable "name" {
  type        = string
  description = "Name of everything here, and of the caches: with the same name they are taken over."
  default     = "buildkit"

  validation {
    condition     = can(regex("^[a-zA-Z][a-zA-Z0-9-]{0,39}$", var.name))
    error_message = "Letters, digits and hyphens, a letter first, 40 at most."
  }
}

variable "vpc_id" {
  type        = string
  description = "VPC of the builder and of its agents."

  validation {
    condition     = can(regex("^vpc-[0-9a-f]+$", var.vpc_id))
    error_message = "A VPC's id: vpc-…"
  }
}

variable "subnet_ids" {
  type        = list(string)
  description = "Private subnets with a way out. A cache stays in its zone: one subnet is best for one instance."

  validation {
    condition     = length(var.subnet_ids) > 0 && alltrue([for id in var.subnet_ids : can(regex("^subnet-[0-9a-f]+$", id))])
    error_message = "At least one subnet's id: subnet-…"
  }
}

variable "agent_security_group_id" {
  type        = string
  description = "Security group of the agents, the only one that may connect."

  validation {
    condition     = can(regex("^sg-[0-9a-f]+$", var.agent_security_group_id))
    error_message = "A security group's id: sg-…"
  }
}

variable "port" {
  type        = number
  description = "Port of the daemon, as the image has it."
  default     = {= s.port =}

  validation {
    condition     = var.port >= 1 && var.port <= 65535 && floor(var.port) == var.port
    error_message = "A port: 1 to 65535."
  }
}

variable "hosted_zone_id" {
  type        = string
  description = "Private hosted zone of the VPC for record_name. Empty for no name."
  default     = ""

  validation {
    condition     = can(regex("^(Z[A-Z0-9]{1,31})?$", var.hosted_zone_id))
    error_message = "A hosted zone's id: Z…"
  }
}

variable "record_name" {
  type        = string
  description = "Name of the builder in that zone, for example builder.ci.internal."
  default     = ""

  # Lower-case and without a dot at the end: the form that IAM compares.
  validation {
    condition     = can(regex("^([a-z0-9]([a-z0-9-]*[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+)?$", var.record_name))
    error_message = "A full name in lower case, without a dot at its end."
  }
}

variable "image_parameter" {
  type        = string
  description = "SSM parameter that holds the image's id. Read at each launch."
  default     = "{= s.ssm_parameter =}"

  validation {
    condition     = can(regex("^/[a-zA-Z0-9_./-]+$", var.image_parameter))
    error_message = "A parameter's name: /…"
  }
}

variable "instance_type" {
  type        = string
  description = "Instance type with {= s.arch =} processors on the Nitro system."
  default     = "{= s.instance_type =}"

  validation {
    condition     = can(regex("^[a-z0-9-]+\\.[a-z0-9-]+$", var.instance_type))
    error_message = "An instance type, for example {= s.instance_type =}."
  }
}

variable "instances" {
  type        = number
  description = "Number of builders. Each has a cache of its own."
  default     = 1

  validation {
    condition     = var.instances >= 0 && var.instances <= 20 && floor(var.instances) == var.instances
    error_message = "0 to 20."
  }
}

variable "cache_gib" {
  type        = number
  description = "Size of a new cache volume. One that exists keeps its size until `aws ec2 modify-volume`."
  default     = {= s.volume_size_gib =}

  validation {
    condition     = var.cache_gib >= 10 && var.cache_gib <= 16384 && floor(var.cache_gib) == var.cache_gib
    error_message = "10 to 16384 GiB."
  }
}

variable "cache_iops" {
  type        = number
  description = "Operations a second of a new cache volume (gp3)."
  default     = 3000

  validation {
    condition     = var.cache_iops >= 3000 && var.cache_iops <= 16000 && floor(var.cache_iops) == var.cache_iops
    error_message = "3000 to 16000."
  }
}

variable "cache_throughput" {
  type        = number
  description = "MiB a second of a new cache volume (gp3)."
  default     = 125

  validation {
    condition     = var.cache_throughput >= 125 && var.cache_throughput <= 1000 && floor(var.cache_throughput) == var.cache_throughput
    error_message = "125 to 1000."
  }
}

variable "kms_key_arn" {
  type        = string
  description = "Key that encrypts new cache volumes. Empty for the account's key for EBS."
  default     = ""

  validation {
    condition     = can(regex("^(arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[a-f0-9-]+)?$", var.kms_key_arn))
    error_message = "A key's ARN: arn:aws:kms:…:key/…"
  }
}

variable "repository_pattern" {
  type        = string
  description = "ECR repositories here that the role may pull from and push to (ci/*). Empty for none: BuildKit asks the client for credentials."
  default     = ""

  validation {
    condition     = can(regex("^([a-z0-9*?][a-z0-9*?._/-]*)?$", var.repository_pattern))
    error_message = "A repository's name, with * and ? for what varies."
  }
}

{% if let Some(Tls::Parameters(prefix)) = s.tls -%}
variable "tls_parameters" {
  type        = string
  description = "Prefix of the SSM parameters with the daemon's certificate and key, as `amibake certs issue --ssm` writes them."
  default     = "{= prefix =}"

  validation {
    condition     = can(regex("^(/[a-zA-Z0-9_.-]+)+$", var.tls_parameters))
    error_message = "A prefix of parameters: /…"
  }
}

{% endif -%}
{% if s.tls.is_some() -%}
variable "tls_kms_key_arn" {
  type        = string
  description = "Key that encrypts the daemon's certificate and key (`amibake certs --kms-key`). Empty for the account's own."
  default     = ""

  validation {
    condition     = can(regex("^(arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[a-f0-9-]+)?$", var.tls_kms_key_arn))
    error_message = "A key's ARN: arn:aws:kms:…:key/…"
  }
}

{% endif -%}
variable "alarm_topic_arn" {
  type        = string
  description = "SNS topic that alarms go to. Empty for alarms that are only seen."
  default     = ""

  validation {
    condition     = can(regex("^(arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[a-zA-Z0-9_-]+)?$", var.alarm_topic_arn))
    error_message = "A topic's ARN: arn:aws:sns:…"
  }
}

variable "log_retention_days" {
  type        = number
  description = "Days that the daemon's log is kept."
  default     = 14

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 180, 365], var.log_retention_days)
    error_message = "1, 3, 5, 7, 14, 30, 60, 90, 180 or 365."
  }
}

data "aws_partition" "current" {}
data "aws_region" "current" {}
data "aws_caller_identity" "current" {}

locals {
  partition = data.aws_partition.current.partition
  region    = data.aws_region.current.id
  account   = data.aws_caller_identity.current.account_id
  in_ec2    = "arn:${local.partition}:ec2:${local.region}:${local.account}"

  # The role is held to these names, so they are made here and not by AWS.
  group     = "${var.name}-builder"
  log_group = "/amibake/${var.name}"
  alarms_to = var.alarm_topic_arn == "" ? [] : [var.alarm_topic_arn]

  # All values are held to patterns without quotes: they stay what they are between these.
  settings = <<-AMIBAKE
    NAME='${var.name}' STACK='' GROUP='${local.group}'
    LOG_GROUP='${local.log_group}' CACHE_MOUNT='{= s.volume_mount =}'
    CACHE_GIB='${var.cache_gib}' CACHE_IOPS='${var.cache_iops}' CACHE_THROUGHPUT='${var.cache_throughput}' KMS_KEY='${var.kms_key_arn}'
    ZONE_ID='${var.hosted_zone_id}' RECORD='${var.record_name}' TLS_FROM='{% match s.tls %}{% when Some(Tls::Parameters(_)) %}${var.tls_parameters}{% when Some(Tls::Bucket(place)) %}s3://{= place =}{% when None %}{% endmatch %}'
  AMIBAKE

  program = <<AMIBAKE
{= user_data_hcl =}
AMIBAKE
}

resource "aws_security_group" "builder" {
  name        = local.group
  description = "Builder ${var.name}: agents to the daemon"
  vpc_id      = var.vpc_id
}

{%- if s.tls.is_some() %}
# The daemon lets in only who has a certificate; who has none need not even reach it.
{%- else %}
# The daemon speaks plain TCP and lets anyone build who reaches it: this rule is its only lock.
{%- endif %}
resource "aws_vpc_security_group_ingress_rule" "agents" {
  security_group_id            = aws_security_group.builder.id
  referenced_security_group_id = var.agent_security_group_id
  description                  = "BuildKit clients on the agents"
  ip_protocol                  = "tcp"
  from_port                    = var.port
  to_port                      = var.port
}

# Builds fetch from anywhere.
resource "aws_vpc_security_group_egress_rule" "anywhere" {
  security_group_id = aws_security_group.builder.id
  description       = "Registries, sources, package mirrors, AWS"
  ip_protocol       = "-1"
  cidr_ipv4         = "0.0.0.0/0"
}

resource "aws_cloudwatch_log_group" "builder" {
  name              = local.log_group
  retention_in_days = var.log_retention_days
}

data "aws_iam_policy_document" "trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "builder" {
  # What of AmazonSSMManagedInstanceCore commands and sessions need. IAM knows no resources for most of it.
  statement {
    sid = "Agent"
    actions = [
      "ssm:ListInstanceAssociations",
      "ssm:UpdateInstanceInformation",
      "ssmmessages:CreateControlChannel",
      "ssmmessages:CreateDataChannel",
      "ssmmessages:OpenControlChannel",
      "ssmmessages:OpenDataChannel",
      "ec2messages:AcknowledgeMessage",
      "ec2messages:DeleteMessage",
      "ec2messages:FailMessage",
      "ec2messages:GetEndpoint",
      "ec2messages:GetMessages",
      "ec2messages:SendReply",
    ]
    resources = ["*"]
  }

  # IAM cannot hold these to resources.
  statement {
    sid       = "Look"
    actions   = ["autoscaling:DescribeAutoScalingGroups", "ec2:DescribeVolumes"]
    resources = ["*"]

    condition {
      test     = "StringEquals"
      variable = "aws:RequestedRegion"
      values   = [local.region]
    }
  }

  # No volume without this builder's tag, and none from a snapshot: that would need a right to the snapshot.
  statement {
    sid       = "Create"
    actions   = ["ec2:CreateVolume"]
    resources = ["${local.in_ec2}:volume/*"]

    condition {
      test     = "StringEquals"
      variable = "aws:RequestTag/amibake:cache"
      values   = [var.name]
    }
    condition {
      test     = "StringEquals"
      variable = "ec2:VolumeType"
      values   = ["gp3"]
    }
    condition {
      test     = "Bool"
      variable = "ec2:Encrypted"
      values   = ["true"]
    }
    condition {
      test     = "ForAllValues:StringEquals"
      variable = "aws:TagKeys"
      values   = ["amibake:cache", "Name"]
    }
  }

  # Only while it is made: nothing that exists can be made to look like this builder's.
  statement {
    sid       = "TagWhatIsMade"
    actions   = ["ec2:CreateTags"]
    resources = ["${local.in_ec2}:volume/*"]

    condition {
      test     = "StringEquals"
      variable = "ec2:CreateAction"
      values   = ["CreateVolume"]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:RequestTag/amibake:cache"
      values   = [var.name]
    }
    condition {
      test     = "ForAllValues:StringEquals"
      variable = "aws:TagKeys"
      values   = ["amibake:cache", "Name"]
    }
  }

  statement {
    sid       = "AttachVolumes"
    actions   = ["ec2:AttachVolume"]
    resources = ["${local.in_ec2}:volume/*"]

    condition {
      test     = "StringEquals"
      variable = "aws:ResourceTag/amibake:cache"
      values   = [var.name]
    }
  }

  statement {
    sid       = "AttachToInstances"
    actions   = ["ec2:AttachVolume"]
    resources = ["${local.in_ec2}:instance/*"]

    condition {
      test     = "StringEquals"
      variable = "aws:ResourceTag/amibake:builder"
      values   = [var.name]
    }
  }

  statement {
    sid       = "Drained"
    actions   = ["autoscaling:CompleteLifecycleAction"]
    resources = ["arn:${local.partition}:autoscaling:${local.region}:${local.account}:autoScalingGroup:*:autoScalingGroupName/${local.group}"]
  }

  statement {
    sid       = "Metrics"
    actions   = ["cloudwatch:PutMetricData"]
    resources = ["*"]

    condition {
      test     = "StringEquals"
      variable = "cloudwatch:namespace"
      values   = ["amibake"]
    }
  }

  statement {
    sid       = "Log"
    actions   = ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.builder.arn}:*"]
  }
{%- if s.tls.is_some() %}

  # The daemon's part alone: not the authority's key, and not the agents'.
  statement {
    sid       = "Certificate"
{%- if let Some(Tls::Bucket(place)) = s.tls %}
    actions   = ["s3:GetObject"]
    resources = ["arn:${local.partition}:s3:::{= place =}/server/*"]
{%- else %}
    actions   = ["ssm:GetParameter"]
    resources = ["arn:${local.partition}:ssm:${local.region}:${local.account}:parameter${var.tls_parameters}/server/*"]
{%- endif %}
  }

  dynamic "statement" {
    for_each = var.tls_kms_key_arn == "" ? [] : [var.tls_kms_key_arn]

    content {
      sid       = "CertificateKey"
      actions   = ["kms:Decrypt"]
      resources = [statement.value]

      condition {
        test     = "StringEquals"
        variable = "kms:ViaService"
        values   = ["{% if let Some(Tls::Bucket(_)) = s.tls %}s3{% else %}ssm{% endif %}.${local.region}.amazonaws.com"]
      }
    }
  }
{%- endif %}

  # What EC2 does with the key in the instance's name.
  dynamic "statement" {
    for_each = var.kms_key_arn == "" ? [] : [var.kms_key_arn]

    content {
      sid       = "Key"
      actions   = ["kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncryptFrom", "kms:ReEncryptTo"]
      resources = [statement.value]

      condition {
        test     = "StringEquals"
        variable = "kms:ViaService"
        values   = ["ec2.${local.region}.amazonaws.com"]
      }
    }
  }

  dynamic "statement" {
    for_each = var.kms_key_arn == "" ? [] : [var.kms_key_arn]

    content {
      sid       = "KeyGrant"
      actions   = ["kms:CreateGrant"]
      resources = [statement.value]

      condition {
        test     = "Bool"
        variable = "kms:GrantIsForAWSResource"
        values   = ["true"]
      }
      condition {
        test     = "StringEquals"
        variable = "kms:ViaService"
        values   = ["ec2.${local.region}.amazonaws.com"]
      }
    }
  }

  dynamic "statement" {
    for_each = var.hosted_zone_id == "" ? [] : [var.hosted_zone_id]

    content {
      sid       = "OwnName"
      actions   = ["route53:ChangeResourceRecordSets"]
      resources = ["arn:${local.partition}:route53:::hostedzone/${statement.value}"]

      condition {
        test     = "ForAllValues:StringEquals"
        variable = "route53:ChangeResourceRecordSetsNormalizedRecordNames"
        values   = [var.record_name]
      }
      condition {
        test     = "ForAllValues:StringEquals"
        variable = "route53:ChangeResourceRecordSetsRecordTypes"
        values   = ["A"]
      }
      condition {
        test     = "ForAllValues:StringEquals"
        variable = "route53:ChangeResourceRecordSetsActions"
        values   = ["UPSERT", "DELETE"]
      }
      # "All values" is true of none.
      condition {
        test     = "Null"
        variable = "route53:ChangeResourceRecordSetsNormalizedRecordNames"
        values   = ["false"]
      }
      condition {
        test     = "Null"
        variable = "route53:ChangeResourceRecordSetsRecordTypes"
        values   = ["false"]
      }
      condition {
        test     = "Null"
        variable = "route53:ChangeResourceRecordSetsActions"
        values   = ["false"]
      }
    }
  }

  # A token is for the whole registry: what it may do is said below.
  dynamic "statement" {
    for_each = var.repository_pattern == "" ? [] : ["*"]

    content {
      sid       = "Token"
      actions   = ["ecr:GetAuthorizationToken"]
      resources = [statement.value]
    }
  }

  dynamic "statement" {
    for_each = var.repository_pattern == "" ? [] : [var.repository_pattern]

    content {
      sid = "PullAndPush"
      actions = [
        "ecr:BatchCheckLayerAvailability",
        "ecr:BatchGetImage",
        "ecr:CompleteLayerUpload",
        "ecr:GetDownloadUrlForLayer",
        "ecr:InitiateLayerUpload",
        "ecr:PutImage",
        "ecr:UploadLayerPart",
      ]
      resources = ["arn:${local.partition}:ecr:${local.region}:${local.account}:repository/${statement.value}"]
    }
  }
}

resource "aws_iam_role" "builder" {
  name_prefix        = substr("${local.group}-", 0, 38)
  assume_role_policy = data.aws_iam_policy_document.trust.json
}

resource "aws_iam_role_policy" "builder" {
  name   = "builder"
  role   = aws_iam_role.builder.id
  policy = data.aws_iam_policy_document.builder.json
}

resource "aws_iam_instance_profile" "builder" {
  name_prefix = substr("${local.group}-", 0, 38)
  role        = aws_iam_role.builder.name
}

resource "aws_launch_template" "builder" {
  name_prefix = "${local.group}-"
  # EC2 reads the parameter at each launch. The root volume is the image's: its size, and encrypted as it was baked.
  image_id      = "resolve:ssm:${var.image_parameter}"
  instance_type = var.instance_type
  user_data     = base64encode(join("", ["#cloud-boothook\n#!/bin/bash\n", local.settings, local.program]))

  iam_instance_profile {
    arn = aws_iam_instance_profile.builder.arn
  }

  metadata_options {
    http_endpoint = "enabled"
    http_tokens   = "required"
    # The host itself and no container: build steps do not get the role's credentials.
    http_put_response_hop_limit = 1
    instance_metadata_tags      = "disabled"
  }

  # The image brings a cache volume that lives as long as its instance. With two blank ones it would format neither.
  block_device_mappings {
    device_name = "/dev/sdf"
    no_device   = "true"
  }

  network_interfaces {
    device_index                = 0
    associate_public_ip_address = "false"
    delete_on_termination       = "true"
    security_groups             = [aws_security_group.builder.id]
  }

  tag_specifications {
    resource_type = "instance"

    tags = {
      Name              = local.group
      "amibake:builder" = var.name
    }
  }

  # The root volume: not the cache's tag.
  tag_specifications {
    resource_type = "volume"

    tags = {
      Name = "${local.group}-root"
    }
  }

  lifecycle {
    precondition {
      condition     = (var.hosted_zone_id == "") == (var.record_name == "")
      error_message = "hosted_zone_id and record_name belong together."
    }
  }
}

resource "aws_autoscaling_group" "builder" {
  name                = local.group
  min_size            = 0
  max_size            = max(1, var.instances)
  desired_capacity    = var.instances
  vpc_zone_identifier = var.subnet_ids
  health_check_type   = "EC2"
  # A new instance in another zone would begin with an empty cache.
  suspended_processes = ["AZRebalance"]

  launch_template {
    id      = aws_launch_template.builder.id
    version = aws_launch_template.builder.latest_version
  }

  # A termination waits until builds have ended: the instance sees it, stops the daemon, which drains, and says so. Longer
  # than the image's drain_timeout and what follows it.
  initial_lifecycle_hook {
    name                 = "drain"
    lifecycle_transition = "autoscaling:EC2_INSTANCE_TERMINATING"
    heartbeat_timeout    = 1200
    default_result       = "CONTINUE"
  }

  # A volume can be attached to one instance only: the old one goes first. A promoted image alone does not start a refresh:
  # `aws autoscaling start-instance-refresh --preferences MinHealthyPercentage=0` does.
  instance_refresh {
    strategy = "Rolling"

    preferences {
      min_healthy_percentage = 0
    }
  }

  tag {
    key                 = "amibake:builder"
    value               = var.name
    propagate_at_launch = true
  }

  # Drains before it is gone.
  timeouts {
    delete = "40m"
  }

  # An instance uses its rights and its way out from the first second on.
  depends_on = [aws_iam_role_policy.builder, aws_vpc_security_group_egress_rule.anywhere]
}

# Each instance asks its own daemon once a minute and reports 1 or 0. Nothing needs to reach the port for that, and an
# instance that says nothing counts as down.
resource "aws_cloudwatch_metric_alarm" "daemon" {
  alarm_name          = "${local.group}-daemon"
  alarm_description   = "Fewer BuildKit daemons answer than there should be"
  namespace           = "amibake"
  metric_name         = "DaemonUp"
  dimensions          = { Builder = var.name }
  statistic           = "Sum"
  period              = 60
  evaluation_periods  = 5
  comparison_operator = "LessThanThreshold"
  threshold           = var.instances
  treat_missing_data  = var.instances == 0 ? "notBreaching" : "breaching"
  alarm_actions       = local.alarms_to
  ok_actions          = local.alarms_to
}

# What follows comes from the CloudWatch agent.
resource "aws_cloudwatch_metric_alarm" "memory" {
  alarm_name          = "${local.group}-memory"
  alarm_description   = "A builder is short of memory"
  namespace           = "amibake"
  metric_name         = "mem_used_percent"
  dimensions          = { Builder = var.name }
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 15
  datapoints_to_alarm = 10
  comparison_operator = "GreaterThanThreshold"
  threshold           = 90
  alarm_actions       = local.alarms_to
}

resource "aws_cloudwatch_metric_alarm" "disk" {
  # Garbage collection keeps a tenth of the cache free: more than its threshold means that it does not keep up.
  for_each = {
    root  = { path = "/", threshold = 85 }
    cache = { path = "{= s.volume_mount =}", threshold = 95 }
  }

  alarm_name          = "${local.group}-disk-${each.key}"
  alarm_description   = "A disk of a builder fills up: ${each.value.path}"
  namespace           = "amibake"
  metric_name         = "disk_used_percent"
  dimensions          = { Builder = var.name, path = each.value.path }
  statistic           = "Maximum"
  period              = 300
  evaluation_periods  = 3
  comparison_operator = "GreaterThanThreshold"
  threshold           = each.value.threshold
  alarm_actions       = local.alarms_to
}

output "buildkit_host" {
  description = "BUILDKIT_HOST for the agents, if the builder has a name."
  value       = var.record_name == "" ? null : "tcp://${var.record_name}:${var.port}"
}

output "security_group_id" {
  description = "Security group of the builder."
  value       = aws_security_group.builder.id
}

output "autoscaling_group" {
  description = "Name of the group, for an instance refresh after a promotion."
  value       = aws_autoscaling_group.builder.name
}

output "role_arn" {
  description = "Role of the builder, for a key's or a repository's policy."
  value       = aws_iam_role.builder.arn
}

output "cache_volumes" {
  description = "Lists the cache volumes. They stay after a destroy."
  value       = "aws ec2 describe-volumes --region ${local.region} --filters Name=tag:amibake:cache,Values=${var.name}"
}
